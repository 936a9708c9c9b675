"""Solve the best plans for a budget from stored scores, print them and write them to files.

Without measurements neither a model nor torch is loaded.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from sharetune.results.formatting import percent, quantity
from sharetune.results.table_text import table_text
from sharetune.search.commands.score import WIDTH, digits
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.score_file import ScoreFile, StoredScores
from sharetune.spaces.planning.solving import Solution, front, measures, needs_of, solve
from sharetune.spaces.run_folder import RunFolder
from sharetune.spaces.yaml_text import write_yaml

SCALES = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
"""Suffixes of a size; B is a billion of parameters, and after another suffix it means bytes."""

SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:([KMGB])B?|%)?", re.IGNORECASE)
"""A number with a suffix, or a percentage."""


@dataclass(frozen=True)
class Found:
    """A solved plan, with the distance that was measured of it where it was."""

    solution: Solution
    measured: float | None = None


@dataclass(frozen=True)
class Solver:
    """The scores of a run folder, solved for `limits`, by name."""

    run: Path
    stored: StoredScores
    limits: Mapping[str, float]

    @classmethod
    def of(cls, run: Path, sizes: Mapping[str, str | None]) -> "Solver":
        """Read the scores in `run`, and the given `sizes`, such as ``100M`` or ``80%``, by name."""
        stored = ScoreFile(RunFolder(run).scores).read().timed()
        if sizes.get("latency_ms") is not None and "latency_ms" not in stored.header.unshared:
            raise ConfigError(
                f"the edits in {run} were not timed",
                f"sharetune score STUDY.yaml --out {run} --latency",
            )
        unshared = stored.header.unshared
        wanted = {name: text for name, text in sizes.items() if text is not None}
        for name in wanted or ("parameters",):
            if not unshared.get(name, 0) > 0:
                raise ConfigError(
                    f"the scores in {run} say nothing of {name}",
                    f"they say {', '.join(unshared) or 'nothing of any size'}",
                )
        limits = {name: _limit(name, text, unshared) for name, text in wanted.items()}
        return cls(run, stored, limits)

    def best(self, count: int, measurements: int = 0) -> list[Found]:
        """Return the best plans; with `measurements`, those measured, the best first."""
        if not self.limits:
            raise ConfigError(
                "a plan is solved for a size, but none is given",
                "add --parameters 80%, --bytes or --flops, or --front for all sizes",
            )
        scored = list(self.stored.scored.values())
        unshared = self.stored.header.unshared
        solved = solve(scored, self.limits, unshared, count=1 if measurements else count)
        if not measurements:
            return [Found(solution) for solution in solved]
        from sharetune.search.scoring import improved

        needs = needs_of(scored, self.limits, unshared)
        made = improved(solved[0], self.stored, needs, measurements, self.run)
        best = sorted(made, key=lambda one: one.measured)
        return [Found(one.solution, one.measured) for one in best[:count]]

    def front(self) -> Iterator[str]:
        """Yield the front as lines of a size, its percentage of the unshared and a distance."""
        name = next(iter(self.limits), "parameters")
        found = front(list(self.stored.scored.values()), name)
        whole = self.stored.header.unshared[name]
        yield f"{name}\tpercent\tdistance"
        for saved, cost in zip(found.saved, found.costs, strict=True):
            size = whole - float(saved)
            yield f"{size:.10g}\t{percent(size / whole)}\t{float(cost):.6g}"

    def table(self, found: Sequence[Found]) -> str:
        """Write plans as a table: distances, sizes, and how many edits of each kind."""
        measured = found[0].measured is not None
        names = measures(list(self.stored.scored.values()))
        table = Table(box=None, pad_edge=False)
        table.add_column("plan", justify="right")
        for title in ("predicted", *(["measured"] if measured else []), *names):
            table.add_column(title, justify="right")
        table.add_column("edits")
        for number, one in enumerate(found, 1):
            distances = [digits(one.solution.cost)]
            distances += [] if one.measured is None else [digits(one.measured)]
            sizes = [self._size(name, one.solution) for name in names]
            table.add_row(str(number), *distances, *sizes, _kinds(one.solution))
        return table_text(table, WIDTH)

    def _size(self, name: str, solution: Solution) -> str:
        whole = self.stored.header.unshared[name]
        size = whole - solution.saved[name]
        return f"{quantity(OBJECTIVES[name], size)} ({percent(size / whole)} %)"


def _limit(name: str, text: str, unshared: Mapping[str, float]) -> float:
    """Read a size such as ``100M``, ``0.4G``, ``80%`` of the unshared, or a plain number."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"a size is a number with K, M, G or B, or a percentage, but --{_option(name)} is "
            f"{text!r}",
            f"write --{_option(name)} 100M, or 80% of the unshared model",
        )
    number = float(match[1])
    if not text.strip().endswith("%"):
        return number * SCALES[(match[2] or "").upper()] if match[2] else number
    return unshared[name] * number / 100


def _option(name: str) -> str:
    return name.replace("_", "-")


def _kinds(solution: Solution) -> str:
    counts = Counter(edit.kind for edit in solution.edits)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "unshared"


def plans_as_yaml(plans: Sequence[SharingPlan]) -> str:
    """Write plans as the key `plans` of a study file."""
    written = [plan.written() for plan in plans]
    return write_yaml({"plans": written}, flow=None)
