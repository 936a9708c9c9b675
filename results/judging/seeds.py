"""Compute the mean of a quality and its 95 % interval over seeds."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from sharetune.results.formatting import is_fraction
from sharetune.results.judging.front import comparable
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.reading import attributes as record
from sharetune.spaces.objectives import Objective

CONFIDENCE = 0.95
"""Coverage of every interval, as reports state it."""


@dataclass(frozen=True)
class Spread:
    """The quality of one candidate over several seeds: mean and 95 % interval of the mean.

    `numbers` are its trials; the interval is Student's t over them.
    """

    numbers: tuple[int, ...]
    mean: float
    low: float
    high: float


def student_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of two or more values and the ends of its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def spreads(frame: pd.DataFrame, quality: Objective) -> dict[int, Spread]:
    """Return the means and intervals over seeds, by trial number.

    A finalist's are over its retrainings alone, because its searched training was selected for
    its luck. Another trial's are over the trials that differ from it in their seed alone.
    """
    again = frame[frame["finalist"].notna() & (frame["state"] == "COMPLETE")]
    retrained: dict[int | None, list[Row]] = defaultdict(list)
    for trial in rows_of(again):
        retrained[trial.finalist].append(trial)
    alike: dict[str, list[Row]] = defaultdict(list)
    for trial in rows_of(comparable(frame, [quality])):
        if trial.candidate and trial.number not in retrained:
            alike[_without_seed(trial)].append(trial)
    found: dict[int, Spread] = {}
    for trials in alike.values():
        if len({trial.recipe.get("seed") for trial in trials}) > 1:
            found |= dict.fromkeys((t.number for t in trials), _spread(trials, quality))
    for number, trials in retrained.items():
        if number is not None and len(trials) > 1:
            found[number] = _spread(trials, quality)
    return found


def paired_difference(
    frame: pd.DataFrame, quality: Objective, one: Row, other: Row
) -> Spread | None:
    """Return how much higher the quality of `one` finalist is than that of an `other`.

    It is over the seeds that both were trained again on, seed by seed, so that what a seed does to
    both does not count; None where those are fewer than two. `numbers` are retrainings of `one`.
    """
    runs = rows_of(frame[frame["finalist"].notna() & (frame["state"] == "COMPLETE")])
    own, others = (
        {run.recipe.get("seed"): run for run in runs if run.finalist == finalist.number}
        for finalist in (one, other)
    )
    both = [seed for seed in own if seed in others]
    if len(both) < 2:
        return None
    name = quality.name
    found = [reported(own[seed], name) - reported(others[seed], name) for seed in both]
    return Spread(tuple(own[seed].number for seed in both), *student_interval(found))


def reported(trial: Row, name: str) -> float:
    """Return a trial's metric on the test split, or the one it was selected by if it has no other.

    NaN where there is neither.
    """
    value = trial.test.get(record.METRICS, {}).get(name, trial.value(name))
    return float("nan") if value is None else float(value)


def _without_seed(trial: Row) -> str:
    recipe = {key: value for key, value in trial.recipe.items() if key != "seed"}
    return json.dumps({**trial.candidate, "recipe": recipe}, sort_keys=True)


def _spread(trials: Sequence[Row], quality: Objective) -> Spread:
    mean, low, high = student_interval([reported(trial, quality.name) for trial in trials])
    if is_fraction(quality):
        low, high = max(0.0, low), min(1.0, high)
    return Spread(tuple(trial.number for trial in trials), mean, low, high)
