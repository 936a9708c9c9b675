"""Compute the finalists' numbers: means over further seeds, their intervals, and the front.

Sizes are exact; only trained numbers have intervals. A finalist is beaten if another one, taken at
the worse ends of its intervals, is still no worse in every objective than this one at its better
ends, and better in one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from sharetune.results.formatting import plural
from sharetune.results.judging.rows import (
    BEATEN,
    FINAL,
    ON_FRONT,
    OPEN,
    Final,
    Row,
    Standing,
    rows_of,
)
from sharetune.results.judging.seeds import Spread, reported, spreads
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.objectives import Objective

LEAST_RUNS = 2
"""Fewest seeds for final numbers: an interval needs two values."""

Spreads = Mapping[str, Mapping[int, Spread]]
"""Means and intervals by trained objective, then by finalist's number."""


@lru_cache(maxsize=2)  # each part of a page asks for it
def final_study(study: StudyRecord) -> StudyRecord:
    """Return the study with its finalists' final numbers in its table.

    A finalist's trained numbers are means over its retrainings, on the test split, and its
    classes and confusion those of the middle one. Only finalists have a :class:`Final` in the
    added column ``final``. Before each finalist has ended on at least two seeds, the study is
    returned as it is.
    """
    runs = retrainings(study.frame)
    if not runs or min(map(_seeds, runs.values())) < LEAST_RUNS:
        return study
    uncertain = filter(_is_trained, dict.fromkeys([study.quality, *study.objectives]))
    found = {objective.name: spreads(study.frame, objective) for objective in uncertain}
    sure = found.get(study.quality.name, {})
    frame = study.frame.set_index("number", drop=False)
    finalists = [number for number in runs if number in sure]
    complete = {n: [run for run in runs[n] if run.number in sure[n].numbers] for n in finalists}
    for number in finalists:
        for name, value in _final_columns(study, complete[number]).items():
            frame.at[number, name] = value
    standing = standings(rows_of(frame.loc[finalists]), study.objectives, found)
    finals = {
        n: Final(standing[n], sure[n].low, sure[n].high, *_counted(runs[n], complete[n]))
        for n in finalists
    }
    frame[FINAL] = pd.Series(finals, dtype=object)
    return replace(study, frame=frame.reset_index(drop=True))


def has_finals(study: StudyRecord) -> bool:
    """Return whether the study's table has finalists' final numbers."""
    return FINAL in study.frame


def retrainings(frame: pd.DataFrame) -> dict[int, list[Row]]:
    """List the ended retrainings of each finalist, by its number; interrupted ones are left out."""
    found: dict[int, list[Row]] = {int(number): [] for number in frame["finalist"].dropna()}
    ended = frame["state"].isin(["COMPLETE", "PRUNED", "FAIL"]) & (frame["reason"] != "interrupted")
    for run in rows_of(frame[frame["finalist"].notna() & ended]):
        assert run.finalist is not None
        found[run.finalist].append(run)
    return found


def lost_text(frame: pd.DataFrame) -> list[str]:
    """Write a sentence for each finalist with seeds whose retraining gave no result."""
    return [
        f"Trial {number} came to no result on {lost} of {plural(_seeds(runs), 'further seed')}."
        for number, runs in retrainings(frame).items()
        if (lost := _seeds(runs) - _seeds([run for run in runs if run.is_complete]))
    ]


def standings(
    rows: Sequence[Row], objectives: Sequence[Objective], found: Spreads
) -> dict[int, Standing]:
    """Compare finalists by their objectives and intervals; return each one's standing by number."""
    best, mean, worst = (_ends(rows, objectives, found, end) for end in ("best", "mean", "worst"))
    by_quality = sorted(range(len(rows)), key=lambda i: (mean[i, 0], rows[i].number))

    def ahead_of(points: np.ndarray, one: np.ndarray) -> int | None:
        ahead = (i for i in by_quality if (points[i] <= one).all() and (points[i] < one).any())
        return next((rows[i].number for i in ahead), None)

    result = {}
    for i, row in enumerate(rows):
        beyond, by = ahead_of(worst, best[i]), ahead_of(mean, mean[i])
        word = BEATEN if beyond is not None else OPEN if by is not None else ON_FRONT
        result[row.number] = Standing(word, by if beyond is None else beyond)
    return result


def _ends(
    rows: Sequence[Row], objectives: Sequence[Objective], found: Spreads, end: str
) -> np.ndarray:
    """Return the objectives at one end of the intervals, (rows, objectives), less is better."""
    return np.array([[_end(row, o, found, end) for o in objectives] for row in rows])


def _end(row: Row, objective: Objective, found: Spreads, end: str) -> float:
    sign = objective.sign
    spread = found.get(objective.name, {}).get(row.number)
    if spread is None or end == "mean":
        return sign * row.value(objective)
    ends = sign * spread.low, sign * spread.high
    return min(ends) if end == "best" else max(ends)


def _is_trained(objective: Objective) -> bool:
    """Return whether it differs between seeds."""
    return objective.source == "trained"


def _seeds(runs: Sequence[Row]) -> int:
    return len({run.recipe.get("seed") for run in runs})


def _counted(runs: Sequence[Row], complete: Sequence[Row]) -> tuple[int, int]:
    """Return how many retrainings completed, and how many seeds gave no result."""
    return len(complete), _seeds(runs) - _seeds(complete)


def _final_columns(study: StudyRecord, runs: Sequence[Row]) -> dict[str, Any]:
    """Return the columns of a finalist's row that its completed retrainings replace."""
    number = middle_run({run.number: run.value(study.quality) for run in runs})
    middle = next(run for run in runs if run.number == number)
    known = dict.fromkeys([*study.trained, *filter(_is_trained, study.objectives)])
    means = {o.name: float(np.mean([reported(run, o.name) for run in runs])) for o in known}
    return {
        **{name: mean for name, mean in means.items() if isfinite(mean)},
        record.PER_CLASS: (middle.test or middle.cells).get(record.PER_CLASS),
        record.CONFUSION: (middle.test or middle.cells).get(record.CONFUSION),
        record.PART_SUMS: (middle.test or middle.cells).get(record.PART_SUMS),
    }


def middle_run(qualities: Mapping[int, float]) -> int:
    """Return the number of the retraining of median quality: its weights are kept and offered, and
    its classes shown.

    `qualities` gives each retraining's quality, on the split that was selected on, by number.
    Of an even number the lower of the two is taken, of equal ones the one trained first.
    """
    ranked = sorted(qualities, key=lambda number: (qualities[number], number))
    return ranked[(len(ranked) - 1) // 2]
