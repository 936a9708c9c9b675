"""How sure an accuracy is: its interval by the test examples, and its interval over seeds."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sharetune.results.formatting import is_fraction
from sharetune.results.judging.front import comparable
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import records
from sharetune.spaces.objectives import Objective

CONFIDENCE = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Spread:
    """One candidate trained on several seeds: its trials, and its quality's mean with the 95 %
    interval of the mean, by Student's t over the seeds."""

    numbers: tuple[int, ...]
    mean: float
    low: float
    high: float


def student_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of two values or more and its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def wilson_interval(share: float, examples: int) -> tuple[float, float]:
    """The 95 % interval of a share (0..1) of `examples`, to the nearest whole example: Wilson
    1927, equation (5).

    Unlike the normal approximation it keeps its width at 0 and at 1.
    """
    counted = stats.binomtest(round(share * examples), examples)
    interval = counted.proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def test_examples(trial: dict[str, Any]) -> int | None:
    """How many examples a trial was tested on, by its per-class report; None if not stored."""
    per_class = trial["per_class"]
    if not isinstance(per_class, dict):
        return None
    rows = [row for row in per_class.values() if isinstance(row, dict)]
    return int(sum(row.get("support", 0) for row in rows)) or None


def accuracy_interval(trial: dict[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of a trial's accuracy; None where its test examples are not known."""
    examples, accuracy = test_examples(trial), trial.get("accuracy")
    if examples is None or accuracy is None or pd.isna(accuracy):
        return None
    return wilson_interval(float(accuracy), examples)


def spreads(frame: pd.DataFrame, quality: Objective) -> dict[int, Spread]:
    """The spread over seeds by trial number: of finalists over their retrainings alone, for the
    searched training was chosen for its luck; of others, over trials that differ in their seed
    alone."""
    again = frame[frame["finalist"].notna() & (frame["state"] == "COMPLETE")]
    retrained: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for trial in records(again):
        retrained[int(trial["finalist"])].append(trial)
    alike: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trial in records(comparable(frame, [quality])):
        if isinstance(trial["candidate"], dict) and trial["number"] not in retrained:
            alike[_without_seed(trial["candidate"])].append(trial)
    found: dict[int, Spread] = {}
    for trials in alike.values():
        if len({trial.get("recipe.seed") for trial in trials}) > 1:
            found |= _for_each(trials, _spread(trials, quality))
    for number, trials in retrained.items():
        if len(trials) > 1:
            found |= {number: _spread(trials, quality)}
    return found


def reported(trial: Mapping[str, Any], name: str) -> float:
    """A trial's number on the test split where it was measured there too, else the one that it
    was selected by; NaN where there is neither."""
    test = trial[record.TEST] if isinstance(trial[record.TEST], dict) else {}
    value = test.get(record.METRICS, {}).get(name, trial[name])
    return float("nan") if value is None else float(value)


def _without_seed(candidate: dict[str, Any]) -> str:
    recipe = {k: v for k, v in (candidate.get("recipe") or {}).items() if k != "seed"}
    return json.dumps({**candidate, "recipe": recipe}, sort_keys=True)


def _for_each(trials: Iterable[dict[str, Any]], spread: Spread) -> dict[int, Spread]:
    return {trial["number"]: spread for trial in trials}


def _spread(trials: Sequence[dict[str, Any]], quality: Objective) -> Spread:
    mean, low, high = student_interval([reported(trial, quality.name) for trial in trials])
    if is_fraction(quality):
        low, high = max(0.0, low), min(1.0, high)
    return Spread(tuple(trial["number"] for trial in trials), mean, low, high)
