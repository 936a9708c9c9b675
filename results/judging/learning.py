"""Judge whether a study's models have learned anything, and whether they had time to."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.stats import entropy

from sharetune.results.judging.examples import test_examples, wilson_interval
from sharetune.results.judging.front import comparable
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.objectives import Objective

LAST_FIFTH = 5
"""Divisor of a curve's points: the last fifth is compared with the fifth before it."""

STILL_FALLING = 0.1
"""Part of all that a training loss fell by, in its last fifth, above which it was still falling.

The learning rate falls to 0, which flattens a curve by itself; curves of trainings that twice the
steps hardly helped were at 0.04 to 0.06.
"""

HARDLY_LEARNED = 0.1
"""McFadden's R² of a training loss, below which it has hardly fallen.

A training with an accuracy of 36.9 % on five classes had 0.00, one with 75 % had 0.46.
"""

OF_LOSS = ("distill", "label_smoothing", "adversary", "r_drop")
"""Settings of a recipe that add to a training loss, or change what it is of."""

LEAST_POINTS = 10
"""Points of a curve below which its fifths say nothing."""


def has_learned(trial: Row, quality: Objective) -> bool:
    """Return whether a model is better than one that has learned nothing.

    That is the objective's useless value, and for an accuracy the share of the largest class,
    beyond the 95 % interval. An objective without a scale of its own is not judged.
    """
    if quality.point is None and quality.worst is None:
        return True
    value = trial.value(quality)
    if quality.name == "accuracy" and (share := _largest_class(trial)) is not None:
        examples = test_examples(trial)
        assert examples is not None, "classes have examples"
        return wilson_interval(value, examples)[0] > share
    return float(quality.gain(value, quality.useless)) > 0


def none_learned(frame: pd.DataFrame, quality: Objective) -> bool:
    """Return whether there are trained models, and none of them has learned anything."""
    rows = rows_of(comparable(frame, [quality]))
    return bool(rows) and not any(has_learned(row, quality) for row in rows)


def has_standard(study: StudyRecord) -> bool:
    """Return whether the unshared model is there and has learned, to be compared with."""
    unshared = unshared_trial(study.frame)
    return unshared is not None and has_learned(unshared, study.quality)


def nothing_learned(study: StudyRecord) -> str | None:
    """Say that no model has learned anything, or the unshared one has not; None otherwise."""
    quality, unshared = study.quality, unshared_trial(study.frame)
    if text := _one_answer(study):
        return text
    if none_learned(study.frame, quality):
        return (
            f"Nothing was learned: no model's {quality.title} is better than a model's that knows "
            "nothing, so none is recommended; train with more steps or another learning rate."
        )
    if unshared is not None and not has_learned(unshared, quality):
        return (
            f"The unshared model has learned nothing ({quality.title} "
            f"{unshared.value(quality):.3g}), so nothing is compared with it; train with more "
            "steps or another learning rate."
        )
    return None


def learning_caveats(study: StudyRecord) -> Iterator[str]:
    """Warn if nothing was learned, or if the unshared model was still learning at the end."""
    unshared = unshared_trial(study.frame)
    if text := nothing_learned(study):
        yield text
    elif unshared is not None and (fell := last_fall(unshared)) > STILL_FALLING:
        yield (
            f"The unshared model was still learning: {fell:.0%} of all that its training loss fell "
            "by, it fell in the last fifth of the steps. Smaller models learn sooner, so that they "
            "look better here than they are; train with more steps."
        )
    elif unshared is not None and (share := explained(unshared)) < HARDLY_LEARNED:
        yield (
            f"The unshared model has hardly learned: its training loss ended {max(share, 0.0):.0%} "
            "below that of guessing by how frequent each class is. What is better or smaller here "
            "says little of models that have learned; train with more steps."
        )


def explained(trial: Row) -> float:
    """Return how far, as a part, a classifier's last losses lie below its classes' entropy.

    That is McFadden's R² (1974, "Conditional logit analysis of qualitative choice behavior"), with
    the classes of the examples that the trial was measured on. NaN for other tasks, and for a loss
    that is not that of labels alone.
    """
    losses = np.array([point[1] for point in trial.curve], dtype=float)
    counts = np.array([row.get("support", 0) for row in trial.per_class.values()], dtype=float)
    if (
        len(losses) < LEAST_POINTS
        or any(trial.recipe.get(name) for name in OF_LOSS)
        or (counts > 0).sum() < 2
    ):
        return float("nan")
    last = np.array_split(losses, LAST_FIFTH)[-1].mean()
    return float(1 - last / entropy(counts))


def last_fall(trial: Row) -> float:
    """Return the part of a training loss's fall that is in the last fifth; NaN if it did not fall.

    Each fifth counts by its mean.
    """
    losses = np.array([point[1] for point in trial.curve], dtype=float)
    if len(losses) < LEAST_POINTS or not np.isfinite(losses).all():
        return float("nan")
    fifths = [part.mean() for part in np.array_split(losses, LAST_FIFTH)]
    fell = fifths[0] - fifths[-1]
    return float((fifths[-2] - fifths[-1]) / fell) if fell > 0 else float("nan")


def _one_answer(study: StudyRecord) -> str | None:
    """Say that the unshared model gives all test examples of several classes the same answer.

    None where it does not, or where no confusion matrix is stored.
    """
    unshared = unshared_trial(study.frame)
    counts = {} if unshared is None else _counts(unshared.cells.get(record.CONFUSION))
    answers = {answer for _, answer in counts}
    if len({true for true, _ in counts}) < 2 or len(answers) > 1:
        return None
    labels, (answer,) = study.model.get("labels") or [], answers
    name = repr(labels[answer]) if answer < len(labels) else f"class {answer}"
    return (
        f"Nothing was learned: the unshared model answers every example of the {study.selected_on} "
        f"split with {name}, so no comparison with it means anything. Train longer, or with a "
        f"larger learning rate."
    )


def _counts(confusion: object) -> dict[tuple[int, int], int]:
    """Return the counts above 0 of a stored confusion matrix, by true and predicted class."""
    cells: Iterable[Sequence[int]] = ()
    if isinstance(confusion, list):
        cells = ((i, j, n) for i, row in enumerate(confusion) for j, n in enumerate(row))
    elif isinstance(confusion, dict):
        cells = confusion["cells"]
    return {(true, answer): count for true, answer, count in cells if count}


def _largest_class(trial: Row) -> float | None:
    """Return the largest class's share of the examples; None without two classes."""
    counts = [row["support"] for row in trial.per_class.values() if "support" in row]
    return max(counts) / sum(counts) if len(counts) > 1 and sum(counts) else None
