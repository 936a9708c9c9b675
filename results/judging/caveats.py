"""Warn before a model is chosen, each warning by one rule on the study's own numbers."""

from collections.abc import Iterator
from math import inf, isfinite

import pandas as pd

from sharetune.results.formatting import (
    POINT,
    THIN,
    distance,
    margin,
    percent,
    percentage,
    plural,
)
from sharetune.results.judging.examples import example_interval, ratio_interval
from sharetune.results.judging.finals import final_study, has_finals, lost_text
from sharetune.results.judging.front import comparable, hypervolume_over_trials, pareto_front
from sharetune.results.judging.learning import learning_caveats
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.judging.seeds import spreads
from sharetune.results.judging.summary import Rivalry, rivalries
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.reading.stored_plans import shares_only
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.objectives import OBJECTIVES, Objective

SAME_LATENCY = 0.05
"""Largest relative difference of two latencies that nobody would choose a model by."""

LARGE_DRIFT = 0.05
"""Relative change of the unshared model's latency in one measurement from which it is doubtful."""

BUSY_PREEMPTIONS = 0.25
"""Preemptions for each timed pass above which a device was not quiet."""

STILL_GROWING = 0.01
"""Relative growth of the hypervolume over the last trials above which a search goes on paying."""

LAST_PART = 0.25
"""Fraction of the trials that counts as the last ones."""

ENOUGH_TRIALS = 20
"""Trained trials below which growth says nothing about convergence."""


def caveats(study: StudyRecord) -> list[str]:
    """List the warnings that apply to a study, as sentences."""
    found = [
        learning_caveats,
        _noise,
        _one_split,
        _seeds,
        _lost,
        _latency,
        _drift,
        _busy,
        _convergence,
        _drops,
    ]
    return [text for rule in found for text in rule(study)] + study.unchanged


def _noise(study: StudyRecord) -> Iterator[str]:
    """Warn if there are too few examples to tell qualities apart that differ by a point."""
    final = final_study(study)
    unshared = unshared_trial(final.frame)
    if unshared is None:
        return
    if study.quality.name == "accuracy":
        yield from _few_examples(unshared)
    elif not has_finals(final):
        yield from _few_parts(final, unshared)


def _few_examples(unshared: Row) -> Iterator[str]:
    """Warn if an accuracy's 95 % interval is wider than one point to either side."""
    interval = example_interval(unshared, OBJECTIVES["accuracy"])
    half = (interval.high - interval.low) / 2 if interval else 0.0
    if interval and half > POINT:
        yield (
            f"Few test examples: accuracies closer than about {percent(half)} points cannot be "
            f"told apart (95{THIN}% interval of the unshared model: "
            f"{percent(interval.low)}–{percent(interval.high)}{THIN}%)."
        )


def _few_parts(study: StudyRecord, unshared: Row) -> Iterator[str]:
    """Warn if the front's model next to the unshared one in quality is more than a point unsure.

    Its ratio to the unshared model over the same examples says so.
    """
    quality, base = study.quality, unshared.value(study.quality)
    front = rows_of(pareto_front(study.frame, study.objectives))
    others = [row for row in front if row.number != unshared.number]
    nearest = min(others, key=lambda row: abs(row.value(quality) - base), default=None)
    interval = ratio_interval(nearest, unshared, quality) if nearest else None
    if nearest is None or interval is None:
        return
    half = (interval[1] - interval[0]) / 2
    points = 100 * half if quality.point is None else half * base / quality.point
    if points > 1:
        yield (
            f"Few test examples: models whose {quality.title} differs by less than about "
            f"{margin(quality, round(points, 1))} cannot be told apart (95{THIN}% interval of "
            f"trial {nearest.number}'s ratio to the unshared model on the same examples: "
            f"{interval[0]:.3f}–{interval[1]:.3f})."
        )


def _one_split(study: StudyRecord) -> Iterator[str]:
    """Warn if models were selected by the test split, on which they are also reported."""
    trained = len(comparable(study.frame))
    if study.rows and study.selected_on == "test" and trained > 1:
        yield (
            f"Selected by the numbers it reports: the best of {trained} trainings by the test "
            f"split looks better there than on new data. With `validation: 0.2` in the task, a "
            f"study selects on other examples than those its finalists are tested on."
        )


def _lost(study: StudyRecord) -> Iterator[str]:
    yield from lost_text(study.frame)


def _seeds(study: StudyRecord) -> Iterator[str]:
    final = final_study(study)
    front = pareto_front(final.frame, study.objectives)
    if front.empty:
        return
    several = spreads(study.frame, study.quality)
    alone = [number for number in front["number"] if number not in several]
    if alone:
        yield (
            f"Too few seeds: {len(alone)} of {plural(len(front), 'model')} on the front "
            f"{'is' if len(alone) == 1 else 'are'} of one seed only, so luck of the draw is "
            f"part of the front; `--resume --set finalists.seeds=3` trains it on three more."
        )


def _latency(study: StudyRecord) -> Iterator[str]:
    """Warn if all sharing models are as fast as the unshared one, or if none surely differs.

    A model is as fast if its whole interval is near, and differs if the whole interval is not.
    """
    rows = comparable(study.frame)
    rows = rows[rows["latency_ratio"].notna() & (rows["anchor"] != "unshared")]
    sharing = rows[[shares_only(candidate) for candidate in rows["candidate"]]]
    if len(sharing) < 2:
        return
    low, high = sharing["latency_ratio_low"], sharing["latency_ratio_high"]
    same = (low >= 1 - SAME_LATENCY) & (high <= 1 + SAME_LATENCY)
    differs = (high < 1 - SAME_LATENCY) | (low > 1 + SAME_LATENCY)
    if same.all():
        yield (
            f"Latency does not differ between sharing plans: all {len(sharing)} measured are "
            f"within {percentage(SAME_LATENCY)} of the unshared model, so choose among them by "
            f"size. Sharing saves memory, not time."
        )
    elif not differs.any():
        yield _untold(sharing[~same], len(sharing))


def _untold(wide: pd.DataFrame, count: int) -> str:
    """Describe the models whose intervals of latency are too wide, of `count` that share."""
    spans = wide["latency_ratio_high"] - wide["latency_ratio_low"]
    if spans.isna().all():
        return (
            f"Latency cannot be told apart: {len(wide)} of {count} sharing plans measured have no "
            f"interval."
        )
    (widest,) = rows_of(wide.loc[[spans.idxmax()]])
    low, high = widest.value("latency_ratio_low"), widest.value("latency_ratio_high")
    return (
        f"Latency cannot be told apart: the intervals of {len(wide)} of {count} sharing plans "
        f"measured reach beyond {percentage(SAME_LATENCY)} of the unshared model, the widest, of "
        f"trial {widest.number}, from {low:.2f} to {high:.2f} times it; measure again with more "
        f"rounds on an idle machine."
    )


def _drift(study: StudyRecord) -> Iterator[str]:
    drifts = study.frame.set_index("number")["latency_drift"].dropna()
    large = {n: d for n, d in zip(drifts.index, drifts, strict=True) if abs(d) > LARGE_DRIFT}
    if large:
        number, worst = max(large.items(), key=lambda item: abs(item[1]))
        yield (
            f"The clock drifted while latency was measured: the unshared model's median changed by "
            f"{percentage(worst, '+.1%')} beside trial {number} ({len(large)} of {len(drifts)} "
            f"changed by more than {percentage(LARGE_DRIFT)}); "
            f"ratios hold better than milliseconds."
        )


def _busy(study: StudyRecord) -> Iterator[str]:
    rates = study.frame.set_index("number")["latency_preempted"].dropna()
    busy = rates[rates > BUSY_PREEMPTIONS]
    if len(busy):
        yield (
            f"The device was not quiet while latency was measured: the system took the processor "
            f"away in {min(busy.max(), 1.0):.0%} of the uses beside trial {busy.idxmax()}; "
            f"measure again on an idle machine."
        )


def _convergence(study: StudyRecord) -> Iterator[str]:
    if not study.has_reference:
        return
    history = hypervolume_over_trials(study.frame, study.objectives, study.reference)
    if history.empty:
        return
    if len(history) < ENOUGH_TRIALS:
        yield (
            f"Too few trials to say whether the front has converged: {len(history)} trained, "
            f"{ENOUGH_TRIALS} or more are needed."
        )
    elif (grown := last_growth(history)) > STILL_GROWING:
        growth = f"grew by {percentage(grown, '.1%')}" if isfinite(grown) else "grew from nothing"
        yield (
            f"The front has not converged: its hypervolume still {growth} over the last quarter of "
            f"the trials; --resume with a larger budget continues the search."
        )


def last_growth(history: pd.DataFrame) -> float:
    """Return the relative growth of the hypervolume over the last quarter of the trials.

    It is infinite from a hypervolume of 0.
    """
    values = history["hypervolume"].tolist()
    before = values[max(0, int(len(values) * (1 - LAST_PART)) - 1)]
    return (values[-1] - before) / before if before else inf if values[-1] else 0.0


def _drops(study: StudyRecord) -> Iterator[str]:
    frame = final_study(study).frame
    met = [rival for rival in rivalries(frame, study.quality) if rival.gain is not None]
    lost = [rival for rival in met if (rival.gain or 0.0) < 0]
    if lost and 2 * len(lost) >= len(met):
        names = ", ".join(f"{rival.drop.anchor} by {_lead(rival, study.quality)}" for rival in lost)
        yield (
            f"Sharing loses to plain layer drop, at most 1{THIN}% larger ({names}); "
            f"a dropped layer saves time as well."
        )


def _lead(rival: Rivalry, quality: Objective) -> str:
    """Write how much better the drop is than the best sharing model of its size."""
    sharing = rival.sharing or rival.drop
    return distance(quality, rival.drop.value(quality), sharing.value(quality))
