"""Improve a solved plan by exchanging single edits while its measured cost falls.

Single effects add up only nearly: edits that lie close together may cost more, or less, than
their sum. Each measured plan tells by how much. What is common to all is a slope; the rest a
ridge regression spreads over the plan's edits, with a variance in proportion to their costs.
The next exchange is the one that is then expected to cost least.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.solving import Scored, Solution, measures, programme_of

RIDGE = 1.0
"""Variance of a measurement's error, as a multiple of the variance of a mean edit's correction."""

CHANGES = 4
"""Edits that come or go in one step: two exchanges, so that the second makes up for what the
first no longer saves."""


@dataclass(frozen=True)
class Measurement:
    """A whole plan with its cost as the scores predict it and as it was measured."""

    solution: Solution
    measured: float

    @property
    def predicted(self) -> float:
        """Sum of the costs of its edits."""
        return self.solution.cost


def improve(
    start: Solution,
    scored: Sequence[Scored],
    needs: Mapping[str, float],
    measure: Callable[[SharingPlan], float],
    *,
    measurements: int,
) -> list[Measurement]:
    """Measure `start`, then plans with edits exchanged, always from the best measured so far.

    `needs` is what a plan must save, by name (:func:`needs_of`); `measure` returns the cost of a
    whole plan in the unit of the scores. One step exchanges one edit for another, of the same
    place or elsewhere, or two where one would save too little. Returns at most `measurements`,
    in the order they were made, `start` first; the best has the least ``measured``.
    """
    numbers = {one.edit: number for number, one in enumerate(scored)}
    chosen = best = tuple(sorted(numbers[edit] for edit in start.edits))
    made: dict[tuple[int, ...], Measurement] = {}
    while len(made) < measurements:
        solution = Solution.of((scored[number] for number in chosen), measures(scored))
        made[chosen] = Measurement(solution, measure(solution.plan))
        best = min(made, key=lambda own: made[own].measured)
        programme = programme_of(_corrected(scored, made), needs)
        proposed = next(programme.best(near=best, radius=CHANGES, known=made), None)
        if proposed is None:
            break
        chosen = proposed
    return list(made.values())


def _corrected(
    scored: Sequence[Scored], made: Mapping[tuple[int, ...], Measurement]
) -> list[Scored]:
    """The edits with costs that agree better with the whole plans measured."""
    costs = np.array([one.cost for one in scored])
    spread = np.sqrt(np.maximum(costs, 0))
    has = np.zeros((len(made), len(scored)))
    for row, chosen in zip(has, map(list, made), strict=True):
        row[chosen] = spread[chosen]
    predicted = np.array([found.predicted for found in made.values()])
    measured = np.array([found.measured for found in made.values()])
    slope = float(measured @ predicted / max(predicted @ predicted, 1e-300))
    noise = RIDGE * float(spread @ spread) / len(spread) + 1e-300
    errors = measured - slope * predicted
    weights = np.linalg.solve(has @ has.T + noise * np.eye(len(made)), errors)
    corrected = slope * costs + spread * (has.T @ weights)
    return [replace(one, cost=float(cost)) for one, cost in zip(scored, corrected, strict=True)]
