"""Compute 95 % intervals of one training's numbers, by the examples it was measured on.

They say how far a number may be off because there are few examples; `seeds.py` has those that say
how far another seed may move it.
"""

from dataclasses import dataclass
from math import isfinite, isnan
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sharetune.results.formatting import is_fraction
from sharetune.results.judging.rows import Row
from sharetune.results.judging.seeds import CONFIDENCE
from sharetune.spaces.objectives import Objective, SumRatio

LEAST_PARTS = 5
"""Parts of a split below which the spread over them says too little."""


@dataclass(frozen=True)
class ExampleInterval:
    """The ends of a 95 % interval, and over how many examples or parts of the split it is."""

    low: float
    high: float
    count: int
    over: Literal["examples", "parts"]


def wilson_interval(share: float, examples: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (0..1) of `examples`: Wilson 1927, equation (5).

    The share is rounded to whole examples.

    Unlike the normal approximation it keeps its width at 0 and at 1.
    """
    counted = stats.binomtest(round(share * examples), examples)
    interval = counted.proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def test_examples(trial: Row) -> int | None:
    """Return the number of examples a trial was measured on, by its per-class report, or None."""
    rows = [row for row in trial.per_class.values() if isinstance(row, dict)]
    return int(sum(row.get("support", 0) for row in rows)) or None


def example_interval(trial: Row, objective: Objective) -> ExampleInterval | None:
    """Return the 95 % interval of one of a trial's numbers, by what it was measured on.

    An accuracy has Wilson's, a number made of two sums (`Objective.ratio`) that of a ratio over
    the parts of the split. None for other numbers, and where the trial does not say.
    """
    value = trial.value(objective)
    if isnan(value):
        return None
    if objective.name == "accuracy":
        examples = test_examples(trial)
        if examples is None:
            return None
        return ExampleInterval(*wilson_interval(value, examples), examples, "examples")
    sums = None if objective.ratio is None else _sums(trial, objective.ratio)
    if objective.ratio is None or sums is None or not isfinite(value):
        return None
    quotient = objective.ratio.quotient(value)
    half = half_width(*sums)
    if not half:
        return None  # equal parts: nothing is known of their spread
    low, high = (objective.ratio.value(quotient + side * half) for side in (-1, 1))
    if is_fraction(objective):
        low, high = max(0.0, low), min(1.0, high)
    return ExampleInterval(low, high, len(sums[0]), "parts")


def half_width(totals: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Return half the 95 % interval of sum(totals) / sum(counts), each over the parts of a split.

    The ratio estimator's standard error (Cochran, Sampling Techniques, 1977, section 2.11), times
    Student's t. Parts are taken for independent: where texts are longer than a part it is too
    narrow.
    """
    parts = len(totals)
    rest = totals - totals.sum() / counts.sum() * counts
    error = float(np.sqrt((rest**2).sum() / (parts - 1) * parts)) / float(counts.sum())
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, parts - 1)) * error


def ratio_interval(trial: Row, base: Row, objective: Objective) -> tuple[float, float] | None:
    """Return the 95 % interval of a number's ratio to `base`'s, over the same parts of a split.

    The parts are paired, so it is far narrower than either number's own: a text that is hard for
    one model is hard for the other. Of a perplexity it is e to the difference of the losses, of
    others a ratio estimator like :func:`half_width`. None without the same parts.
    """
    ratio = objective.ratio
    sums = None if ratio is None else _paired(trial, base, ratio)
    value, known = trial.value(objective), base.value(objective)
    if ratio is None or sums is None or not (isfinite(value) and isfinite(known) and known > 0):
        return None
    own, other, counts = sums
    times = value / known
    if ratio.link == "exp":
        half = half_width(own - other, counts)
        return times * float(np.exp(-half)), times * float(np.exp(half))
    half = half_width(own, other)
    return times - half, times + half


def differ(trial: Row, other: Row, objective: Objective) -> bool | None:
    """Return whether two trials' numbers differ beyond 95 % intervals; None where there are none.

    Over the same parts of a split their paired difference decides, else whether the two intervals
    are apart.
    """
    paired = ratio_interval(trial, other, objective)
    if paired is not None:
        return not paired[0] <= 1 <= paired[1]
    found = [example_interval(each, objective) for each in (trial, other)]
    if None in found:
        return None
    first, second = (each for each in found if each)
    return first.high < second.low or second.high < first.low


def _sums(trial: Row, ratio: SumRatio) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the two sums over parts that a ratio divides; None for too few, or for none."""
    found = [np.array(trial.part_sums.get(name, ()), float) for name in (ratio.total, ratio.count)]
    totals, counts = found
    if len(totals) < LEAST_PARTS or len(totals) != len(counts) or not counts.sum() > 0:
        return None
    return totals, counts


def _paired(
    trial: Row, base: Row, ratio: SumRatio
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the totals of both trials and the counts that they share; None if they share none."""
    own, other = _sums(trial, ratio), _sums(base, ratio)
    if own is None or other is None or not np.array_equal(own[1], other[1]):
        return None
    return own[0], other[0], own[1]
