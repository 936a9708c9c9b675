"""Print how sharing fares with longer trainings, from the matrix's rows alone.

Two things for each workload and budget of steps. The lead of the best plan of ties over the best
drop of layers, of at most the same size; where it turns is the crossover. And the exponent of the
law of looped models (arXiv 2604.21106): a layer that is used r times is worth r ** exponent layers,
0.46 where it was found, at pre-training. What a tied stack is worth is read off the models with
fewer layers, as the depth at which they are as good.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from sklearn.isotonic import IsotonicRegression

from benchmarks.matrix.names import DROPS, FOUND, SHARING, TIED, UNSHARED
from benchmarks.matrix.rows import Row
from benchmarks.matrix.table import Cells, Lead, grouped
from sharetune.spaces.plan import SharingPlan

TIES = (TIED, SHARING, FOUND)
"""Methods whose plans may tie whole stacks."""


@dataclass(frozen=True)
class Worth:
    """The layers that a tied stack stores, and those of an untied model of equal quality.

    Both are fractions (0..1) of the unshared model's layers, `stored` and `depth`. Where the tied
    stack is better than all untied models, `depth` is 1; where it is worse than all, the least of
    theirs. Then `is_bound`.
    """

    stored: float
    depth: float
    is_bound: bool

    @property
    def exponent(self) -> float:
        """Return the exponent by which its layers gain from their uses."""
        return log(self.depth / self.stored) / log(1 / self.stored)


def ties(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of plans that tie layers and do nothing else, by plan, each seed once."""
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        groups = SharingPlan.from_yaml(row.plan).groups
        if row.method in TIES and groups and all(group.form.name == "tie" for group in groups):
            found.setdefault(row.plan, {})[row.seed] = row
    return {plan: list(seeds.values()) for plan, seeds in found.items()}


def worths(rows: Sequence[Row]) -> list[Worth]:
    """Return what each tied plan is worth by the mean over its seeds; none where depth is worth
    nothing, as models with fewer layers are as good as the unshared one."""
    cells = Cells(rows)
    fewer: dict[float, list[Row]] = {}
    for row in rows:
        if row.method in (DROPS, UNSHARED):
            fewer.setdefault(row.stack, []).append(row)
    depths = np.array(sorted(fewer))
    costs = np.array([cells.cost(fewer[depth]) for depth in depths])
    fitted = IsotonicRegression(increasing=False).fit_transform(np.log(depths), costs)
    if fitted[0] == fitted[-1]:
        return []
    return [_worth(plan[0].stack, cells.cost(plan), depths, fitted) for plan in ties(rows).values()]


def _worth(stored: float, cost: float, depths: np.ndarray, costs: np.ndarray) -> Worth:
    is_bound = not costs[-1] < cost <= costs[0]
    depth = exp(np.interp(-cost, -costs, np.log(depths)))
    return Worth(stored, float(depth), is_bound)


def exponent(found: Sequence[Worth]) -> str:
    """Return the exponent by least squares, with the number of plans and of bounds among them."""
    if not found:
        return "none: depth is worth nothing here"
    x = np.array([log(1 / one.stored) for one in found])
    y = np.array([log(one.depth / one.stored) for one in found])
    bounds = sum(one.is_bound for one in found)
    told = f", {bounds} beyond the ladder" if bounds else ""
    return f"{(x @ y) / (x @ x):.2f} ({len(found)} plans{told})"


def leads(rows: Sequence[Row]) -> Mapping[float, Lead]:
    """Return the lead of the best tied plan over the best drop of at most a part, by part."""
    cells = Cells(rows)
    found: dict[float, Lead] = {}
    for part in cells.parts:
        tied = [plan for plan in ties(rows).values() if plan[0].stack <= part + 0.01]
        drops = [cells.of(DROPS, p) for p in cells.parts if p <= part and cells.of(DROPS, p)]
        if tied and drops:
            found[part] = cells.between(cells.best(tied), cells.best(drops))
    return found


def lengths(rows: Sequence[Row]) -> str:
    """Return the table of the workloads that were trained for several lengths, in Markdown."""
    several = {row.workload for row in rows if row.times != 1}
    lines = ["| workload | steps | exponent | lead of ties over drops |", "|---|---|---|---|"]
    for (workload, _), own in grouped(row for row in rows if row.workload in several):
        if told := leads(own):
            sizes = "; ".join(f"{part:.0%}: {lead}" for part, lead in told.items())
            steps = min(row.steps for row in own if row.method == UNSHARED)
            lines.append(f"| {workload} | {steps:,} | {exponent(worths(own))} | {sizes} |")
    return "\n".join(lines)
