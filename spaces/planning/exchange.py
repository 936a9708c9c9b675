"""Improve a solved plan by exchanging single edits while its measured cost falls.

Single effects add up only nearly: edits that lie close together may cost more, or less, than
their sum. Each measurement of a whole plan tells by how much, and a ridge regression spreads that
over the plan's edits, so that the next exchange is the one expected to cost least.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import Slot
from sharetune.spaces.planning.solving import Scored, Solution, depths, measures

RIDGE = 1.0
"""Weight of the penalty on corrections: one measurement of n edits is believed to n / (n + 1)."""

Numbers = NDArray[np.float64]
Chosen = frozenset[int]


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
    """Measure `start`, then plans with one edit exchanged, going on from the best measured so far.

    `needs` is what a plan must save, by name, as :func:`needs_of` gives it; `measure` returns the
    cost of a whole plan in the unit of the scores. An exchange replaces one edit by another, of
    the same place or elsewhere; where that saves too little, a second edit is added or replaced
    by one that makes up for it. Returns at most `measurements` of them in the order they were
    made, `start` first; the best is the one with the least ``measured``.
    """
    search = _Exchange(scored, needs)
    number = {one.edit: i for i, one in enumerate(scored)}
    best = chosen = frozenset(number[edit] for edit in start.edits)
    made: dict[Chosen, Measurement] = {}
    for _ in range(measurements):
        solution = Solution.of((scored[i] for i in chosen), measures(scored))
        made[chosen] = Measurement(solution, measure(solution.plan))
        if made[chosen].measured < made[best].measured:
            best = chosen
        costs = search.corrected(made)
        left = {new: sum(costs[list(new)]) for new in search.near(best, costs) if new not in made}
        if not left:
            break
        chosen = min(left, key=lambda new: left[new])
    return list(made.values())


class _Exchange:
    """The scored edits as arrays, and which of them go together."""

    def __init__(self, scored: Sequence[Scored], needs: Mapping[str, float]) -> None:
        self.needs = np.array(list(needs.values()))
        self.saved = np.array([[one.saved[name] for name in needs] for one in scored])
        self.cost = np.array([one.cost for one in scored])
        self.edits = [one.edit for one in scored]
        self.depths = depths(scored)
        slots: dict[Slot, int] = {}
        for edit in self.edits:
            for slot in sorted(edit.slots):
                slots.setdefault(slot, len(slots))
        self.slots = np.zeros((len(self.edits), len(slots)), dtype=bool)
        for i, edit in enumerate(self.edits):
            self.slots[i, [slots[slot] for slot in edit.slots]] = True

    def corrected(self, made: Mapping[Chosen, Measurement]) -> Numbers:
        """Costs of all edits with what the measured plans say of their sums."""
        has = np.zeros((len(made), len(self.edits)))
        for row, chosen in zip(has, made, strict=True):
            row[list(chosen)] = 1
        errors = np.array([found.measured - found.predicted for found in made.values()])
        weights = np.linalg.solve(has @ has.T + RIDGE * np.eye(len(made)), errors)
        return self.cost + has.T @ weights

    def near(self, chosen: Chosen, costs: Numbers) -> Iterator[Chosen]:
        """All sets with one edit exchanged that save enough, some with a second one."""
        for old in sorted(chosen):
            rest = chosen - {old}
            for new in self._free(rest):
                if new != old:
                    yield from self._made_up(rest | {int(new)}, int(new), costs)

    def _made_up(self, chosen: Chosen, new: int, costs: Numbers) -> Iterator[Chosen]:
        """`chosen` if it saves enough, else with the cheapest change beside `new` that helps."""
        lacking = self.needs - self.saved[list(chosen)].sum(0)
        if (lacking <= 0).all():
            changed: Chosen | None = chosen
        else:
            changed = self._cheapest(chosen, new, lacking, costs)
        if changed is not None and self._leaves_layers(changed):
            yield changed

    def _cheapest(
        self, chosen: Chosen, new: int, lacking: Numbers, costs: Numbers
    ) -> Chosen | None:
        """`chosen` with the cheapest edit added, or put in the place of one other than `new`."""
        found: tuple[float, Chosen] | None = None
        for old in (None, *sorted(chosen - {new})):
            rest = chosen if old is None else chosen - {old}
            gone, paid = (0.0, 0.0) if old is None else (self.saved[old], costs[old])
            free = self._free(rest)
            free = free[(self.saved[free] - gone >= lacking).all(1)]
            if len(free):
                cheapest = int(free[np.argmin(costs[free])])
                cost = float(costs[cheapest] - paid)
                if found is None or cost < found[0]:
                    found = cost, rest | {cheapest}
        return found and found[1]

    def _free(self, chosen: Chosen) -> NDArray[np.intp]:
        """Edits that touch none of the chosen ones' places."""
        taken = self.slots[list(chosen)].any(0)
        return np.flatnonzero(~self.slots[:, taken].any(1))

    def _leaves_layers(self, chosen: Chosen) -> bool:
        removed = dict.fromkeys(self.depths, 0)
        for i in chosen:
            removed[self.edits[i].stack] += len(self.edits[i].removed)
        return all(removed[stack] < depth for stack, depth in self.depths.items())
