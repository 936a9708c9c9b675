"""Compute the finalists' numbers: means over further seeds, their intervals, and the front.

Sizes are exact; only trained numbers have intervals. A finalist is beaten if another one, taken at
the worse ends of its intervals, is still no worse in every objective than this one at its better
ends, and better in one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from sharetune.results.formatting import plural
from sharetune.results.judging.front import STANDING
from sharetune.results.judging.seeds import Spread, reported, spreads
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import StudyRecord, records
from sharetune.spaces.objectives import OBJECTIVES, Objective, trained

ON_FRONT = "front"
"""Word of a finalist that no other dominates by its mean."""

OPEN = "open"
"""Word of a finalist that another dominates by its mean, but within the intervals."""

BEATEN = "beaten"
"""Word of a finalist that another dominates beyond the intervals."""

ORDER = (ON_FRONT, OPEN, BEATEN)
"""Order in which finalists are listed."""

BY = "beaten_by"
"""Column: number of the finalist that is ahead of this one."""

LOW = "quality_low"
"""Column: lower end of the 95 % interval of the mean quality."""

HIGH = "quality_high"
"""Column: upper end of the 95 % interval of the mean quality."""

SEEDS = "seeds"
"""Column: number of completed retrainings."""

LOST = "lost_seeds"
"""Column: number of seeds whose retraining ended without a result."""

LEAST_RUNS = 2
"""Fewest seeds for final numbers: an interval needs two values."""

Spreads = Mapping[str, Mapping[int, Spread]]
"""Means and intervals by trained objective, then by finalist's number."""


@dataclass(frozen=True)
class Standing:
    """A finalist's place: on the front of the means, dominated within the intervals, or beyond.

    `by` is the number of the finalist of best quality that dominates it.
    """

    word: str
    by: int | None = None

    def __str__(self) -> str:
        if self.by is None:
            return "on the front"
        sure = "beyond the intervals" if self.word == BEATEN else "within the intervals"
        return f"dominated by trial {self.by}, {sure}"


@lru_cache(maxsize=2)  # each part of a page asks for it
def final_study(study: StudyRecord) -> StudyRecord:
    """Return the study with its finalists' final numbers in its table.

    A finalist's trained numbers are means over its retrainings, on the test split, and its
    classes and confusion those of the middle one. Only finalists have values in the added columns
    ``standing``, ``beaten_by``, ``quality_low``, ``quality_high``, ``seeds`` and ``lost_seeds``.
    Before each finalist has ended on at least two seeds, the study is returned as it is.
    """
    runs = retrainings(study.frame)
    if not runs or min(map(_seeds, runs.values())) < LEAST_RUNS:
        return study
    uncertain = filter(_is_trained, dict.fromkeys([study.quality, *study.objectives]))
    found = {objective.name: spreads(study.frame, objective) for objective in uncertain}
    sure = found.get(study.quality.name, {})
    finals = {n: _final(study, own, sure[n]) for n, own in runs.items() if n in sure}
    frame = study.frame.set_index("number", drop=False)
    for name in (STANDING, BY, LOW, HIGH, SEEDS, LOST):
        frame[name] = None
    for number, values in finals.items():
        for name, value in values.items():
            frame.at[number, name] = value
    rows = records(frame.loc[list(finals)])
    for number, standing in standings(rows, study.objectives, found).items():
        frame.at[number, STANDING], frame.at[number, BY] = standing.word, standing.by
    return replace(study, frame=frame.reset_index(drop=True))


def has_finals(study: StudyRecord) -> bool:
    """Return whether the study's table has finalists' final numbers."""
    return STANDING in study.frame


def standing_of(trial: Mapping[str, Any]) -> Standing | None:
    """Read the standing of a trial from its row; None for one that is no finalist."""
    word = trial.get(STANDING)
    return Standing(word, trial[BY]) if isinstance(word, str) else None


def retrainings(frame: pd.DataFrame) -> dict[int, list[dict[str, Any]]]:
    """List the ended retrainings of each finalist, by its number; interrupted ones are left out."""
    found: dict[int, list[dict[str, Any]]] = {int(n): [] for n in frame["finalist"].dropna()}
    ended = frame["state"].isin(["COMPLETE", "PRUNED", "FAIL"]) & (frame["reason"] != "interrupted")
    for trial in records(frame[frame["finalist"].notna() & ended]):
        found[int(trial["finalist"])].append(trial)
    return found


def lost_text(frame: pd.DataFrame) -> list[str]:
    """Write a sentence for each finalist with seeds whose retraining gave no result."""
    return [
        f"Trial {number} came to no result on {lost} of {plural(_seeds(runs), 'further seed')}."
        for number, runs in retrainings(frame).items()
        if (lost := _seeds(runs) - _seeds([run for run in runs if run["state"] == "COMPLETE"]))
    ]


def standings(
    rows: Sequence[Mapping[str, Any]], objectives: Sequence[Objective], found: Spreads
) -> dict[int, Standing]:
    """Compare finalists by their objectives and intervals; return each one's standing by number."""
    best, mean, worst = (_ends(rows, objectives, found, end) for end in ("best", "mean", "worst"))
    by_quality = sorted(range(len(rows)), key=lambda i: (mean[i, 0], rows[i]["number"]))

    def ahead_of(points: np.ndarray, one: np.ndarray) -> int | None:
        ahead = (i for i in by_quality if (points[i] <= one).all() and (points[i] < one).any())
        return next((rows[i]["number"] for i in ahead), None)

    result = {}
    for i, row in enumerate(rows):
        beyond, by = ahead_of(worst, best[i]), ahead_of(mean, mean[i])
        word = BEATEN if beyond is not None else OPEN if by is not None else ON_FRONT
        result[row["number"]] = Standing(word, by if beyond is None else beyond)
    return result


def _ends(
    rows: Sequence[Mapping[str, Any]], objectives: Sequence[Objective], found: Spreads, end: str
) -> np.ndarray:
    """Return the objectives at one end of the intervals, (rows, objectives), less is better."""
    return np.array([[_end(row, o, found, end) for o in objectives] for row in rows])


def _end(row: Mapping[str, Any], objective: Objective, found: Spreads, end: str) -> float:
    sign = objective.sign
    spread = found.get(objective.name, {}).get(row["number"])
    if spread is None or end == "mean":
        return sign * row[objective.name]
    ends = sign * spread.low, sign * spread.high
    return min(ends) if end == "best" else max(ends)


def _is_trained(objective: Objective) -> bool:
    """Return whether it differs between seeds; unknown ones, of tasks not loaded here, count."""
    return objective.source == "trained" or objective.name not in OBJECTIVES


def _seeds(runs: Sequence[Mapping[str, Any]]) -> int:
    return len({run["recipe.seed"] for run in runs})


def _final(study: StudyRecord, runs: Sequence[dict[str, Any]], sure: Spread) -> dict[str, Any]:
    """Return the columns of a finalist's row that its retrainings replace, with their values."""
    quality = study.quality.name
    complete = [run for run in runs if run["number"] in sure.numbers]
    number = middle_run({run["number"]: run[quality] for run in complete})
    middle = next(run for run in complete if run["number"] == number)
    seen = middle[record.TEST] if isinstance(middle[record.TEST], dict) else middle
    known = dict.fromkeys([*trained(), *filter(_is_trained, study.objectives)])
    names = [objective.name for objective in known if objective.name in middle]
    means = {name: float(np.mean([reported(run, name) for run in complete])) for name in names}
    return {
        **{name: mean for name, mean in means.items() if isfinite(mean)},
        record.PER_CLASS: seen.get(record.PER_CLASS),
        record.CONFUSION: seen.get(record.CONFUSION),
        LOW: sure.low,
        HIGH: sure.high,
        SEEDS: len(complete),
        LOST: _seeds(runs) - _seeds(complete),
    }


def middle_run(qualities: Mapping[int, float]) -> int:
    """Return the number of the retraining of median quality: its weights are kept and offered, and
    its classes shown.

    `qualities` gives each retraining's quality, on the split that was selected on, by number.
    Of an even number the lower of the two is taken, of equal ones the one trained first.
    """
    ranked = sorted(qualities, key=lambda number: (qualities[number], number))
    return ranked[(len(ranked) - 1) // 2]
