"""Fill cells of the matrix: find each method's plan, train it on each seed, write rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from benchmarks.matrix.finding import Search
from benchmarks.matrix.methods import LADDERS, SCORED, Treatment, regular, solved
from benchmarks.matrix.names import DROPS, FOUND, PARTS, SMALLER, UNSHARED
from benchmarks.matrix.rows import Row, add_rows, read_rows
from benchmarks.matrix.workload import Trainings, Workload
from sharetune.spaces.plan import SharingPlan

MOST_LONGER = 12.0
"""Most times that a smaller model is trained as long as the found one: beyond it nothing was
gained, and a cell takes longer than all others together."""


@dataclass(frozen=True)
class Asked:
    """The cells that are asked for, and the file their rows go to.

    With `shard` (the first is 1, of how many) only that part of the trainings is run.
    """

    methods: Sequence[str]
    parts: Sequence[float]
    times: Sequence[float]
    seeds: Sequence[int]
    rows: Path
    shard: tuple[int, int] = (1, 1)


class Matrix:
    """The cells of one workload, those that have rows and those to train."""

    def __init__(self, workload: Workload, asked: Asked) -> None:
        self.workload, self.asked = workload, asked
        self.rows = read_rows(asked.rows)

    def fill(self) -> Iterator[Row]:
        """Train what has no row yet, one seed after another, and yield each new row."""
        for times in self.asked.times:
            for seed in self.asked.seeds:
                yield from self._fill(times, seed)

    def _fill(self, times: float, seed: int) -> Iterator[Row]:
        trainings = [Trainings(self.workload, seed, fresh=fresh) for fresh in (False, True)]
        for method, part in self._cells():
            if not self._is_mine(method, part, seed) or self._has(method, part, times, seed):
                continue
            treatment = self.treatment(method, part, times)
            if treatment is None:
                continue
            row = self._row(treatment, (method, part, times, seed), trainings[treatment.fresh])
            add_rows(self.asked.rows, [row])
            self.rows.append(row)
            yield row

    def _cells(self) -> Iterator[tuple[str, float]]:
        """Yield methods with their parts; what another one's cost depends on comes first."""
        if UNSHARED in self.asked.methods:
            yield UNSHARED, 1.0
        for part in self.asked.parts:
            yield from ((method, part) for method in self.asked.methods if method != UNSHARED)

    def _is_mine(self, method: str, part: float, seed: int) -> bool:
        which, count = self.asked.shard
        place = self.asked.methods.index(method) + round(100 * part) + seed
        return place % count == which - 1

    def _has(self, *cell: str | float) -> bool:
        return any(row.cell == cell for row in self.rows)

    def treatment(self, method: str, part: float, times: float) -> Treatment | None:
        """Return what a method trains for a part; None where nothing of it is that small.

        ShareTune's plan is found by trainings as long as those that it is compared in.
        """
        cell = method, part, times
        known = next((r for r in self.rows if (r.method, r.part, r.times) == cell), None)
        if known is not None and method != SMALLER:
            return Treatment(SharingPlan.from_yaml(known.plan), search_pflop=known.search_pflop)
        if method == UNSHARED:
            return Treatment(SharingPlan())
        if method == SMALLER:
            return self._smaller(part, times)
        if method in LADDERS and not (self.workload.pretrained and method in SCORED):
            plan = regular(self.workload, method, part)
            return None if plan is None else Treatment(plan)
        if method == FOUND and not self.workload.pretrained:
            return self._found(part, times)
        return solved(self.workload, method, part)

    def _found(self, part: float, times: float) -> Treatment | None:
        search = self._searches(times)
        plan = search.best(self.workload, part)
        cost = search.pflop / len(PARTS)
        return None if plan is None else Treatment(plan, search_pflop=cost)

    @cached_property
    def _searches(self) -> Callable[[float], Search]:
        return cache(lambda times: Search.of(self.workload, times))

    def _smaller(self, part: float, times: float) -> Treatment | None:
        """Return fewer layers from scratch for what the found plan and its search cost."""
        found, fewer = (self.treatment(method, part, times) for method in (FOUND, DROPS))
        if found is None or fewer is None:
            return None
        cost = self.workload.pflop(found.plan, times) + found.search_pflop
        longer = min(MOST_LONGER, cost / self.workload.pflop(fewer.plan, times))
        return Treatment(fewer.plan, longer=longer, fresh=self.workload.pretrained)

    def _row(
        self, treatment: Treatment, cell: tuple[str, float, float, int], trainings: Trainings
    ) -> Row:
        """Return the row of a cell; a training that has a row under another method is not run."""
        method, part, times, seed = cell
        plan, length = treatment.plan, times * treatment.longer
        row = Row(
            workload=self.workload.name,
            method=method,
            part=part,
            times=times,
            seed=seed,
            **self.workload.described(plan, length, seed),
            search_pflop=treatment.search_pflop,
            metric=self.workload.quality.name,
            quality=math.nan,
            eval_loss=math.nan,
            seconds=math.nan,
        )
        alike = (r for r in self.rows if r.training == row.training and not treatment.fresh)
        same = next(alike, None)
        if same is not None:
            return replace(
                row, quality=same.quality, eval_loss=same.eval_loss, seconds=same.seconds
            )
        metrics, seconds = trainings.train(plan, length)
        loss = metrics.get("eval_loss", math.nan)
        return replace(row, quality=metrics[row.metric], eval_loss=loss, seconds=seconds)
