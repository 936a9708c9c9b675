"""The same choice of disjoint edits as an integer programme, for several budgets at once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

COST_SCALE = 1e4
"""The largest cost as the solver sees it: it stops within 1e-6 of the optimum."""


@dataclass(frozen=True)
class Programme:
    """Minimise ``cost @ x`` over x in {0, 1}.

    `takes[k]` are the variables of which only one may be 1; ``sizes[k] @ x <= most[k]`` bounds
    the layers removed of a stack; ``saved[k] @ x >= needs[k]`` are the budgets.
    """

    cost: Sequence[float]
    takes: Sequence[Sequence[int]]
    sizes: Sequence[Sequence[float]]
    most: Sequence[float]
    saved: Sequence[Sequence[float]]
    needs: Sequence[float]

    def best(
        self,
        *,
        apart: int = 1,
        near: Sequence[int] | None = None,
        radius: int = 0,
        known: Iterable[Sequence[int]] = (),
    ) -> Iterator[tuple[int, ...]]:
        """Yield the variables that are 1 in each solution, cheapest first.

        Each differs in at least `apart` variables from those before it, in one at least from all
        that are `known`, and in at most `radius` from `near`, where that is given. Budgets are
        checked exactly, since the solver meets them within its tolerance only.
        """
        cuts = [self._differs(chosen, 1) for chosen in known]
        if near is not None:
            cuts.append(LinearConstraint(self._signs(near), ub=radius - len(near)))
        while (chosen := self._solved(cuts)) is not None:
            holds = self._holds(chosen)
            if holds:
                yield chosen
            cuts.append(self._differs(chosen, apart if holds else 1))

    def _differs(self, chosen: Sequence[int], apart: int) -> LinearConstraint:
        return LinearConstraint(self._signs(chosen), lb=apart - len(chosen))

    def _signs(self, chosen: Sequence[int]) -> NDArray[np.float64]:
        """Weights whose product with x is the number of variables that differ, less `chosen`'s."""
        signs = np.ones(len(self.cost))
        signs[list(chosen)] = -1
        return signs

    def _solved(self, cuts: Sequence[LinearConstraint]) -> tuple[int, ...] | None:
        cost = np.asarray(self.cost, dtype=float)
        found = milp(
            cost * (COST_SCALE / max(np.abs(cost).max(), 1e-300)),
            integrality=np.ones(len(cost)),
            bounds=Bounds(0, 1),
            constraints=[*self._constraints(), *cuts],
            options={"mip_rel_gap": 0},
        )
        return None if found.x is None else tuple(map(int, np.flatnonzero(found.x > 0.5)))

    def _constraints(self) -> Iterator[LinearConstraint]:
        rows = np.repeat(np.arange(len(self.takes)), [len(take) for take in self.takes])
        columns = np.concatenate([np.asarray(take, dtype=int) for take in self.takes])
        shape = len(self.takes), len(self.cost)
        yield LinearConstraint(csr_array((np.ones(len(rows)), (rows, columns)), shape), ub=1)
        yield LinearConstraint(np.asarray(self.sizes), ub=self.most)
        for saved, need in zip(self.saved, self.needs, strict=True):
            scale = max(abs(need), max(map(abs, saved)))
            yield LinearConstraint(np.asarray(saved) / scale, lb=need / scale)

    def _holds(self, chosen: Sequence[int]) -> bool:
        totals = [sum(saved[i] for i in chosen) for saved in self.saved]
        return all(total >= need for total, need in zip(totals, self.needs, strict=True))
