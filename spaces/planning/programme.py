"""The same choice of disjoint edits as an integer programme, for several budgets at once."""

from collections.abc import Iterator, Sequence
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

    def best(self, apart: int = 1) -> Iterator[tuple[int, ...]]:
        """Yield the variables that are 1 in each solution, cheapest first.

        Each differs in at least `apart` variables from those before it. Budgets are checked
        exactly, since the solver meets them within its tolerance only.
        """
        cuts: list[tuple[NDArray[np.float64], float]] = []
        while (chosen := self._solved(cuts)) is not None:
            holds = self._holds(chosen)
            if holds:
                yield tuple(map(int, chosen))
            sign = np.ones(len(self.cost))
            sign[chosen] = -1
            cuts.append((sign, (apart if holds else 1) - len(chosen)))

    def _solved(self, cuts: Sequence[tuple[NDArray[np.float64], float]]) -> NDArray[np.intp] | None:
        cost = np.asarray(self.cost, dtype=float)
        found = milp(
            cost * (COST_SCALE / max(np.abs(cost).max(), 1e-300)),
            integrality=np.ones(len(cost)),
            bounds=Bounds(0, 1),
            constraints=[*self._constraints(), *(LinearConstraint(s, lb=at) for s, at in cuts)],
            options={"mip_rel_gap": 0},
        )
        return None if found.x is None else np.flatnonzero(found.x > 0.5)

    def _constraints(self) -> Iterator[LinearConstraint]:
        rows = np.repeat(np.arange(len(self.takes)), [len(take) for take in self.takes])
        columns = np.concatenate([np.asarray(take, dtype=int) for take in self.takes])
        shape = len(self.takes), len(self.cost)
        yield LinearConstraint(csr_array((np.ones(len(rows)), (rows, columns)), shape), ub=1)
        yield LinearConstraint(np.asarray(self.sizes), ub=self.most)
        for saved, need in zip(self.saved, self.needs, strict=True):
            scale = max(abs(need), max(map(abs, saved)))
            yield LinearConstraint(np.asarray(saved) / scale, lb=need / scale)

    def _holds(self, chosen: NDArray[np.intp]) -> bool:
        totals = [sum(saved[i] for i in chosen) for saved in self.saved]
        return all(total >= need for total, need in zip(totals, self.needs, strict=True))
