"""How sure an accuracy is: its interval by the test examples, and its spread over seeds."""

import json
from collections import defaultdict
from dataclasses import dataclass
from math import sqrt
from typing import Any

import pandas as pd

from results.front import comparable
from results.study import records

TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Spread:
    """One candidate trained on several seeds: its trials, and its quality's mean and range."""

    numbers: tuple[int, ...]
    mean: float
    low: float
    high: float


def wilson_interval(share: float, examples: int) -> tuple[float, float]:
    """The 95 % interval of a share (0..1) of `examples`: Wilson 1927, equation (5).

    Unlike the normal approximation it keeps its width at 0 and at 1.
    """
    z = TWO_SIDED_95**2 / examples
    middle = (share + z / 2) / (1 + z)
    half = sqrt(z * share * (1 - share) + z * z / 4) / (1 + z)
    return max(0.0, middle - half), min(1.0, middle + half)


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


def spreads(frame: pd.DataFrame, quality: str) -> dict[int, Spread]:
    """The spread over seeds by trial number, for candidates that differ in their seed alone."""
    alike: dict[str, list[tuple[int, float, Any]]] = defaultdict(list)
    rows = comparable(frame)
    for trial in records(rows[rows[quality].notna()]):
        if isinstance(trial["candidate"], dict):
            one = (trial["number"], trial[quality], trial.get("recipe.seed"))
            alike[_without_seed(trial["candidate"])].append(one)
    several = (trials for trials in alike.values() if len({seed for *_, seed in trials}) > 1)
    found = (_spread(trials) for trials in several)
    return {number: spread for spread in found for number in spread.numbers}


def _without_seed(candidate: dict[str, Any]) -> str:
    recipe = {k: v for k, v in (candidate.get("recipe") or {}).items() if k != "seed"}
    return json.dumps({**candidate, "recipe": recipe}, sort_keys=True)


def _spread(trials: list[tuple[int, float, Any]]) -> Spread:
    values = [value for _, value, _ in trials]
    numbers = tuple(number for number, *_ in trials)
    return Spread(numbers, sum(values) / len(values), min(values), max(values))
