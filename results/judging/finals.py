"""The finalists' numbers: means over further seeds with intervals, and what these say of the front.

Sizes are exact; only trained numbers have intervals. A finalist is beaten if another one, taken at
the worse ends of its intervals, is still no worse in every objective than this one at its better
ends, and better in one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from sharetune.results.formatting import plural
from sharetune.results.judging.front import STANDING
from sharetune.results.judging.seeds import Spread, reported, spreads
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import StudyRecord, records
from sharetune.spaces.objectives import Objective

ON_FRONT, OPEN, BEATEN = "front", "open", "beaten"
BY, LOW, HIGH, SEEDS, LOST = "beaten_by", "quality_low", "quality_high", "seeds", "lost_seeds"
ORDER = (ON_FRONT, OPEN, BEATEN)
LEAST_RUNS = 2

Spreads = Mapping[str, Mapping[int, Spread]]
"""By trained objective, then by finalist."""


@dataclass(frozen=True)
class Standing:
    """Where a finalist stands: on the front of the means; ``open``, which is off it but within the
    intervals; or ``beaten``. `by` is the finalist of best quality that is ahead of it."""

    word: str
    by: int | None = None

    def __str__(self) -> str:
        if self.by is None:
            return "on the front"
        sure = "beyond the intervals" if self.word == BEATEN else "within the intervals"
        return f"dominated by trial {self.by}, {sure}"


def final_study(study: StudyRecord) -> StudyRecord:
    """The study with its finalists' final numbers, or as it is before all of them have ended
    on at least two seeds.

    A finalist's trained numbers are means over its retrainings, on the test split, and its
    classes and confusion those of the middle one. The table's columns ``standing``, ``beaten_by``,
    ``quality_low``, ``quality_high``, ``seeds`` and ``lost_seeds`` are of finalists only.
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
    """Whether the study's table has final numbers."""
    return STANDING in study.frame


def standing_of(trial: Mapping[str, Any]) -> Standing | None:
    """Where a row of a table with final numbers stands; None for one that is no finalist."""
    word = trial.get(STANDING)
    return Standing(word, trial[BY]) if isinstance(word, str) else None


def retrainings(frame: pd.DataFrame) -> dict[int, list[dict[str, Any]]]:
    """The ended retrainings of each finalist, interrupted ones left out."""
    found: dict[int, list[dict[str, Any]]] = {int(n): [] for n in frame["finalist"].dropna()}
    ended = frame["state"].isin(["COMPLETE", "PRUNED", "FAIL"]) & (frame["reason"] != "interrupted")
    for trial in records(frame[frame["finalist"].notna() & ended]):
        found[int(trial["finalist"])].append(trial)
    return found


def lost_text(frame: pd.DataFrame) -> list[str]:
    """One sentence for each finalist that came to no result on some of its seeds."""
    return [
        f"Trial {number} came to no result on {lost} of {plural(_seeds(runs), 'further seed')}."
        for number, runs in retrainings(frame).items()
        if (lost := _seeds(runs) - _seeds([run for run in runs if run["state"] == "COMPLETE"]))
    ]


def standings(
    rows: Sequence[Mapping[str, Any]], objectives: Sequence[Objective], found: Spreads
) -> dict[int, Standing]:
    """Where each finalist stands by its row's objectives and their intervals."""
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
    """The objectives of `rows`, (rows, objectives), less is better, at one end of the intervals."""
    return np.array([[_end(row, o, found, end) for o in objectives] for row in rows])


def _end(row: Mapping[str, Any], objective: Objective, found: Spreads, end: str) -> float:
    sign = objective.sign
    spread = found.get(objective.name, {}).get(row["number"])
    if spread is None or end == "mean":
        return sign * row[objective.name]
    ends = sign * spread.low, sign * spread.high
    return min(ends) if end == "best" else max(ends)


def _is_trained(objective: Objective) -> bool:
    """Whether it differs between seeds."""
    return objective.source == "trained"


def _seeds(runs: Sequence[Mapping[str, Any]]) -> int:
    return len({run["recipe.seed"] for run in runs})


def _final(study: StudyRecord, runs: Sequence[dict[str, Any]], sure: Spread) -> dict[str, Any]:
    """What of a finalist's row its retrainings replace, by column."""
    quality = study.quality.name
    complete = [run for run in runs if run["number"] in sure.numbers]
    middle = middle_run(complete, quality)
    seen = middle[record.TEST] if isinstance(middle[record.TEST], dict) else middle
    known = dict.fromkeys([*study.trained, *filter(_is_trained, study.objectives)])
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


def middle_run(runs: Sequence[dict[str, Any]], quality: str) -> dict[str, Any]:
    """The retraining whose quality, on the split that was selected on, lies in the middle: the
    one whose weights are kept."""
    ranked = sorted(runs, key=lambda run: (run[quality], run["number"]))
    return ranked[(len(ranked) - 1) // 2]
