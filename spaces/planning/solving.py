"""The best plans for any budget, from the effects of single edits, which add up.

A plan is a set of edits of which no two change the same part of the same layer, and that leaves
a layer in each stack; a stack is as deep as the edits say. Its predicted cost is the sum of its
edits' costs, and so are its savings. Parameters, bytes and FLOPs add up exactly; milliseconds
only roughly.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, overload

from sharetune.spaces.errors import PlanError
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import Edit, Slot, plan_of
from sharetune.spaces.planning.fronts import Choice, Fronts
from sharetune.spaces.planning.programme import Programme
from sharetune.spaces.registry import did_you_mean


@dataclass(frozen=True)
class Scored:
    """An edit with what it costs alone, and what it takes away.

    `cost` is the KL divergence, in nats, from the unshared model's outputs. `saved` is by name:
    ``parameters``, ``bytes``, ``flops``, and ``latency_ms`` if it was measured.
    """

    edit: Edit
    cost: float
    saved: Mapping[str, float]

    def written(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"edit": self.edit.written(), "cost": self.cost, "saved": dict(self.saved)}

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Scored":
        """Read what :meth:`written` returns."""
        return cls(Edit.read(written["edit"]), written["cost"], written["saved"])


@dataclass(frozen=True)
class Solution:
    """Disjoint edits, and the sums of what they cost and take away alone."""

    edits: tuple[Edit, ...]
    cost: float
    saved: Mapping[str, float]

    @property
    def plan(self) -> SharingPlan:
        """The plan that makes all edits."""
        return plan_of(self.edits)

    @classmethod
    def of(cls, chosen: Iterable[Scored], names: Iterable[str]) -> "Solution":
        """Add up `chosen`; `names` are the savings to add, also where nothing is chosen."""
        chosen = sorted(chosen, key=_place)
        saved = {name: sum(one.saved[name] for one in chosen) for name in names}
        return cls(tuple(one.edit for one in chosen), sum(one.cost for one in chosen), saved)


class Front(Sequence[Solution]):
    """Solutions by what they save of one measure, ascending, each the cheapest that saves as much.

    `saved` and `costs` are arrays over all of them; solutions are put together when asked for.
    """

    def __init__(self, scored: Sequence[Scored], measure: str) -> None:
        self.measure = measure
        self._scored = scored
        self._names = measures(scored)
        _known(self._names, measure)
        ends = [0, *accumulate(depths(scored).values())]
        starts = dict(zip(depths(scored), ends, strict=False))
        self._fronts = Fronts(list(self._choices(starts)), ends[1:])
        self.saved, self.costs = self._fronts.whole.saved, self._fronts.whole.cost

    def _choices(self, starts: Mapping[str, int]) -> Iterator[Choice]:
        for number, one in enumerate(self._scored):
            edit, start = one.edit, starts[one.edit.stack]
            if not edit.is_contiguous:
                raise PlanError(
                    f"a front is of edits of adjacent layers, but got: {edit}",
                    "solve for one budget at a time, or leave the edit out",
                )
            yield Choice(
                number,
                start + edit.layers[0],
                start + edit.layers[-1] + 1,
                "attention" in edit.parts,
                "ffn" in edit.parts,
                len(edit.removed) == len(edit.layers),
                one.saved[self.measure],
                one.cost,
            )

    def __len__(self) -> int:
        return len(self.saved)

    @overload
    def __getitem__(self, index: int) -> Solution: ...
    @overload
    def __getitem__(self, index: slice) -> list[Solution]: ...
    def __getitem__(self, index: int | slice) -> Solution | list[Solution]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return next(self.best(float(self.saved[index])))

    def best(self, need: float) -> Iterator[Solution]:
        """Yield all solutions that save `need` at least, cheapest first."""
        for numbers in self._fronts.best(need):
            yield Solution.of((self._scored[number] for number in numbers), self._names)


def front(scored: Sequence[Scored], measure: str) -> Front:
    """Find the least cost for each saving of `measure`, from the unshared model to the smallest.

    Exact. Raises :class:`PlanError` for an edit of layers that are not adjacent.
    """
    return Front(scored, measure)


def solve(
    scored: Sequence[Scored],
    limits: Mapping[str, float],
    unshared: Mapping[str, float],
    *,
    count: int = 5,
    apart: int = 1,
) -> list[Solution]:
    """Find the `count` cheapest plans within all `limits`, cheapest first.

    `limits` and `unshared`, the unshared model's own values, are by name, for example
    ``{"parameters": 100e6, "latency_ms": 30}``. Each plan differs in at least `apart` edits from
    those before it, of both plans together: an edit that is exchanged counts twice. One limit is
    solved by dynamic programming, several, or `apart` above 1, as an integer programme.
    Raises :class:`PlanError` if no plan is small enough.
    """
    found: Iterator[Solution]
    needs = needs_of(scored, limits, unshared)
    if len(needs) > 1 or apart > 1 or not all(one.edit.is_contiguous for one in scored):
        chosen = programme_of(scored, needs).best(apart=apart)
        found = (Solution.of((scored[i] for i in own), measures(scored)) for own in chosen)
    else:
        ((measure, need),) = needs.items()
        found = front(scored, measure).best(need)
    solutions = list(islice(found, count))
    if not solutions:
        raise _too_small(scored, limits, unshared)
    return solutions


def measures(scored: Sequence[Scored]) -> tuple[str, ...]:
    """List the names of the savings that all edits have."""
    first = scored[0].saved if scored else {}
    return tuple(name for name in first if all(name in one.saved for one in scored))


def depths(scored: Iterable[Scored]) -> dict[str, int]:
    """Return the depth of each stack, as far as the edits say it."""
    found: dict[str, int] = {}
    for one in scored:
        edit = one.edit
        found[edit.stack] = max(found.get(edit.stack, 0), edit.layers[-1] + 1)
    return found


def needs_of(
    scored: Sequence[Scored], limits: Mapping[str, float], unshared: Mapping[str, float]
) -> dict[str, float]:
    """Return what a plan must save, by name, to come within `limits`."""
    if not limits:
        raise PlanError("a plan is solved for at least one limit, but got none", "name a budget")
    for name in limits:
        _known(measures(scored), name)
    return {name: unshared[name] - limit for name, limit in limits.items()}


def _known(names: Sequence[str], measure: str) -> None:
    if measure not in names:
        raise PlanError(
            f"not every edit says what it saves of {measure!r}", did_you_mean(measure, list(names))
        )


def programme_of(scored: Sequence[Scored], needs: Mapping[str, float]) -> Programme:
    """State the choice of edits that save `needs`, by name, as an integer programme."""
    takers: dict[Slot, list[int]] = {}
    for number, one in enumerate(scored):
        for slot in sorted(one.edit.slots):
            takers.setdefault(slot, []).append(number)
    layers = depths(scored)
    edits = [one.edit for one in scored]
    return Programme(
        cost=[one.cost for one in scored],
        takes=list(takers.values()),
        sizes=[[len(e.removed) * (e.stack == stack) for e in edits] for stack in layers],
        most=[depth - 1 for depth in layers.values()],
        saved=[[one.saved[name] for one in scored] for name in needs],
        needs=list(needs.values()),
    )


def _too_small(
    scored: Sequence[Scored], limits: Mapping[str, float], unshared: Mapping[str, float]
) -> PlanError:
    least = {name: unshared[name] - _most_saved(scored, name) for name in limits}
    asked = " and ".join(f"{_amount(limit)} {name}" for name, limit in limits.items())
    alone = ", ".join(f"{_amount(value)} {name}" for name, value in least.items())
    return PlanError(
        f"no plan of these {len(scored)} edits has at most {asked}",
        f"raise the limit (the least, each alone: {alone}), or score edits that save more",
    )


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1e5 else f"{value:,.6g}"


def _most_saved(scored: Sequence[Scored], measure: str) -> float:
    """The most that disjoint edits save of a measure."""
    free = [Scored(one.edit, -one.saved[measure], one.saved) for one in scored]
    chosen = next(programme_of(free, {measure: 0.0}).best())
    return sum(scored[number].saved[measure] for number in chosen)


def _place(one: Scored) -> tuple[str, tuple[int, ...], tuple[str, ...], str]:
    return one.edit.stack, one.edit.layers, one.edit.parts, one.edit.key()
