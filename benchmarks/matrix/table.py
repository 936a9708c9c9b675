"""Print the matrix from its rows alone: means, intervals over seeds, and who wins each cell.

A cell is a workload at a size. ShareTune's plan is set against every rival of at most that size,
also smaller ones, that is trained as many steps; the best of them is found on the very seeds that
are reported, which flatters it. The smaller model that has the compute of ShareTune's search as
well is a rival of its own, since it costs several times the training of all others. Leads are of
pairs of one seed; `+-` is half of a 95 % interval by Student's t over the seeds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan
from statistics import fmean

from benchmarks.matrix.names import EQUAL_STEPS, FOUND, METHODS, SMALLER, UNSHARED
from benchmarks.matrix.rows import Row
from sharetune.results.judging.seeds import student_interval
from sharetune.spaces.objectives import OBJECTIVES, Objective

Qualities = Mapping[int, float]
"""Quality on the test split by seed."""


@dataclass(frozen=True)
class Lead:
    """How much better one method's plan is than a rival's, over the seeds that both have.

    `half` is half of the interval, None for one seed; `same` says that both are one plan.
    """

    rival: str
    mean: float
    half: float | None
    same: bool = False

    @property
    def is_sure(self) -> bool:
        """Return whether the interval lies above 0."""
        return self.half is not None and not self.same and self.mean > self.half

    @property
    def is_sure_loss(self) -> bool:
        """Return whether the interval lies below 0."""
        return self.half is not None and not self.same and -self.mean > self.half

    def __str__(self) -> str:
        if self.same:
            return f"the same plan as {self.rival}"
        half = "" if self.half is None else f" +- {self.half:.3g}"
        return f"{self.mean:+.3g}{half} over {self.rival}"


class Cells:
    """The rows of one workload at one budget of steps."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.quality: Objective = OBJECTIVES[rows[0].metric]

    @property
    def parts(self) -> list[float]:
        """Return the sizes, larger ones first, without the unshared model's."""
        return sorted({row.part for row in self.rows if row.method != UNSHARED}, reverse=True)

    def of(self, method: str, part: float) -> list[Row]:
        """Return the rows of a method for a part, one a seed."""
        return [row for row in self.rows if (row.method, row.part) == (method, part)]

    def lead(self, part: float, rivals: Sequence[str] = EQUAL_STEPS) -> Lead | None:
        """Return ShareTune's least lead over rivals of at most a size; None without either.

        A rival counts on the seeds that both have, at least three or half of ShareTune's.
        """
        found = self.of(FOUND, part)
        others = [self.of(method, p) for method in rivals for p in self.parts if p <= part]
        leads = [self.between(found, rows) for rows in others if _shared(found, rows)]
        return min(leads, key=lambda lead: lead.mean, default=None)

    def best(self, plans: Sequence[Sequence[Row]]) -> Sequence[Row]:
        """Return the rows of the plan whose mean quality is best."""
        return min(plans, key=self.cost)

    def cost(self, rows: Sequence[Row]) -> float:
        """Return the mean quality of rows, with the sign by which less is better."""
        return self.quality.sign * fmean(row.quality for row in rows)

    def between(self, own: Sequence[Row], other: Sequence[Row]) -> Lead:
        """Return the lead of one plan's rows over another's."""
        ours, theirs = _by_seed(own), _by_seed(other)
        gains = [float(self.quality.gain(ours[s], theirs[s])) for s in ours if s in theirs]
        name = other[0].method if other[0].part == own[0].part else _place(other[0])
        same = (own[0].plan, own[0].steps) == (other[0].plan, other[0].steps)
        if len(gains) < 2:
            return Lead(name, sum(gains), None, same)
        mean, low, _ = student_interval(gains)
        return Lead(name, mean, mean - low, same)


@dataclass(frozen=True)
class Score:
    """Counts of the cells that have a lead, by how it is."""

    cells: int
    at_least_as_good: int
    sure: int
    sure_losses: int

    @classmethod
    def of(cls, leads: Sequence[Lead]) -> "Score":
        """Count leads."""
        return cls(
            len(leads),
            sum(lead.same or lead.mean >= 0 for lead in leads),
            sum(lead.is_sure for lead in leads),
            sum(lead.is_sure_loss for lead in leads),
        )

    def __str__(self) -> str:
        return (
            f"of {self.cells} cells at least as good as the best rival in {self.at_least_as_good}, "
            f"better beyond the interval in {self.sure}, worse beyond it in {self.sure_losses}"
        )


def table(rows: Sequence[Row]) -> str:
    """Return all workloads' tables in Markdown, and the count of cells won."""
    blocks, leads = [], list[Lead]()
    for (workload, times), own in grouped(rows):
        cells = Cells(own)
        found = [lead for part in cells.parts if (lead := cells.lead(part))]
        leads += found if times == 1 else []
        blocks.append("\n".join(_block(f"{workload}, steps x{times:g}", cells)))
        blocks.append(f"{workload}: {Score.of(found)}.")
    return "\n\n".join([*blocks, f"All workloads, steps x1: {Score.of(leads)}."])


def grouped(rows: Iterable[Row]) -> Iterator[tuple[tuple[str, float], list[Row]]]:
    """Yield the rows of each workload at each budget of steps, shorter ones first."""

    def key(row: Row) -> tuple[str, float]:
        return row.workload, row.times

    for name, own in groupby(sorted(rows, key=key), key=key):
        yield name, list(own)


def _block(title: str, cells: Cells) -> Iterator[str]:
    shown = [
        name for name in METHODS if name != UNSHARED and any(r.method == name for r in cells.rows)
    ]
    unshared = cells.of(UNSHARED, 1.0)
    whole = f"; unshared {interval(unshared)}" if unshared else ""
    yield f"### {title}: {cells.quality.title} ({cells.quality.direction}d){whole}"
    yield ""
    yield f"| at most | {' | '.join(shown)} | lead, equal steps | lead, equal compute |"
    yield "|---|" + "---|" * (len(shown) + 2)
    for part in cells.parts:
        values = [interval(cells.of(method, part)) for method in shown]
        line = f"| {part:.0%} | {' | '.join(values)} | {cells.lead(part) or 'missing'} | "
        yield line + f"{cells.lead(part, [SMALLER]) or 'missing'} |"


def interval(rows: Sequence[Row]) -> str:
    """Return mean and half interval over seeds; ``-`` where nothing was trained."""
    values = [row.quality for row in rows if not isnan(row.quality)]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3g} (one seed)"
    mean, low, _ = student_interval(values)
    return f"{mean:.3g} +- {mean - low:.2g}"


def _shared(found: Sequence[Row], other: Sequence[Row]) -> bool:
    """Return whether a rival has three of the seeds that ShareTune's plan has, or half of them."""
    both = {row.seed for row in found} & {row.seed for row in other}
    return bool(both) and 2 * len(both) >= min(len(found), 6)


def _by_seed(rows: Sequence[Row]) -> Qualities:
    return {row.seed: row.quality for row in rows}


def _place(row: Row) -> str:
    return f"{row.method} at {row.part:.0%}"
