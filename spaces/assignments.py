"""Owner maps: which layers of a group read the same bank.

An assignment is one registered function ``(n_layers, argument) -> owners``: `owners[i]` is
the number of the bank that the i-th layer of the group reads. Registering one makes it
usable in plans, spaces, the command line's listing and the contract tests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import ceil
from statistics import mean
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from sharetune.spaces.errors import PlanError
from sharetune.spaces.layers import MOST_LAYERS
from sharetune.spaces.registry import Registry
from sharetune.spaces.settings import reader
from sharetune.spaces.texts import shown

Owners = tuple[int, ...]
"""An owner map: for each layer of a group, in order, the number of the bank it reads."""

Assign = Callable[[int, Any], Sequence[int]]
Find = Callable[[Sequence[Sequence[float]], Any], Owners]
"""``(how alike each two layers' outputs are, argument) -> owners``."""

ASSIGNMENTS: Registry[Assign] = Registry("assignment")
"""Assignments by name: functions from the number of layers and an argument to the owner map."""


def found_by(find: Find) -> Callable[[Assign], Assign]:
    """Decorate an assignment whose owners `find` tells once the layers' outputs are compared."""

    def mark(assign: Assign) -> Assign:
        assign.find = find  # type: ignore[attr-defined]
        return assign

    return mark


@dataclass(frozen=True)
class Assignment:
    """A registered assignment with its argument: a number of banks, or the owner map itself."""

    name: str = "one"
    argument: int | Owners | None = None

    @property
    def find(self) -> Find | None:
        """The function that finds owners by similarity of layers; None if no model is needed."""
        found: Find | None = getattr(ASSIGNMENTS[self.name], "find", None)
        return found

    def owners(self, n_layers: int) -> Owners:
        """Return the bank of each of `n_layers` layers, numbered in order of first use."""
        numbers: dict[int, int] = {}
        owners = ASSIGNMENTS[self.name](n_layers, self.argument)
        return tuple(numbers.setdefault(owner, len(numbers)) for owner in owners)


@ASSIGNMENTS.register("one")
def one(n_layers: int, argument: None) -> Sequence[int]:
    """all layers read one bank"""
    _none(argument, "one")
    return [0] * n_layers


@ASSIGNMENTS.register("sequence")
def sequence(n_layers: int, banks: int) -> Sequence[int]:
    """M runs of adjacent layers: i -> floor(i M / n) (Takase & Kiyono, arXiv 2104.06022)"""
    _at_most(n_layers, banks, "sequence")
    return [i * banks // n_layers for i in range(n_layers)]


@ASSIGNMENTS.register("cycle")
def cycle(n_layers: int, banks: int) -> Sequence[int]:
    """M banks over and over: i -> i mod M (Takase & Kiyono, arXiv 2104.06022)"""
    _at_most(n_layers, banks, "cycle")
    return [i % banks for i in range(n_layers)]


@ASSIGNMENTS.register("cycle_rev")
def cycle_rev(n_layers: int, banks: int) -> Sequence[int]:
    """cycle with the last M positions reversed (Takase & Kiyono, arXiv 2104.06022)"""
    _at_most(n_layers, banks, "cycle_rev")
    turn = banks * (ceil(Fraction(n_layers, banks)) - 1)
    return [i % banks if i < turn else banks - 1 - i % banks for i in range(n_layers)]


@ASSIGNMENTS.register("repeat")
def repeat(n_layers: int, times: int) -> Sequence[int]:
    """each bank K times in a row: i -> floor(i / K) (MobileLLM, arXiv 2402.14905)"""
    _at_most(n_layers, times, "repeat")
    return [i // times for i in range(n_layers)]


@ASSIGNMENTS.register("each")
def each(n_layers: int, argument: None) -> Sequence[int]:
    """a bank for each layer, for layers that run several times (arXiv 2410.20672)"""
    _none(argument, "each")
    return range(n_layers)


@ASSIGNMENTS.register("owners")
def explicit(n_layers: int, owners: Owners) -> Sequence[int]:
    """an explicit list: the bank's number for each layer"""
    if not isinstance(owners, tuple):
        raise PlanError(f"owners must be a list, but got {owners!r}", "write owners: [0, 0, 1]")
    if len(owners) != n_layers:
        raise PlanError(
            f"owners must name a bank for each of the group's {n_layers} layers, "
            f"but got {len(owners)}: {list(owners)}",
            f"list {n_layers} numbers, one a layer",
        )
    return owners


def most_alike(similarity: Sequence[Sequence[float]], banks: int) -> Owners:
    """Cluster the layers into `banks` banks, merging the most similar first; return the owner map.

    Clusters are compared by the mean similarity of their layers (average linkage);
    `similarity[i][j]` is that of layers i and j, such as the CKA of their outputs. A bank has the
    number of its first layer.
    """
    groups = [[i] for i in range(len(similarity))]

    def likeness(pair: tuple[list[int], list[int]]) -> float:
        return mean(similarity[i][j] for i in pair[0] for j in pair[1])

    while len(groups) > banks:
        one, two = max(combinations(groups, 2), key=likeness)
        groups = [group for group in groups if group is not one and group is not two]
        groups.append(sorted(one + two))
    owners = {layer: min(group) for group in groups for layer in group}
    return tuple(owners[i] for i in range(len(similarity)))


@ASSIGNMENTS.register("similar")
@found_by(most_alike)
def similar(n_layers: int, banks: int) -> Sequence[int]:
    """M banks, each for the layers that are most alike on the task's own text"""
    _at_most(n_layers, banks, "similar")
    raise PlanError(
        f"similar: {banks} is not known before the model's layers are compared",
        "bind the plan to stack_shapes(model, batches), with batches of the task's inputs",
    )


def _none(argument: object, name: str) -> None:
    if argument is not None:
        raise PlanError(f"{name} takes no argument, but got {shown(argument)}", f"write {name}")


def _at_most(n_layers: int, count: object, name: str) -> None:
    if not isinstance(count, int) or not 1 <= count <= n_layers:
        raise PlanError(
            f"`1 <= {name} <= {n_layers}` must hold for a group of {n_layers} layers, "
            f"but got {name}={count!r}",
            f"write {name}: M with M at most the number of layers",
        )


def read_assignment(value: object) -> Assignment:
    """Read an assignment as written: ``one``, ``{cycle: 3}`` or ``{owners: [0, 0, 1]}``."""
    if isinstance(value, Assignment):
        return value
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, dict) or len(value) != 1:
        raise PlanError(
            f"an assignment is a name or one `name: argument`, but got {shown(value)}",
            f"available: {', '.join(ASSIGNMENTS)}",
        )
    ((name, argument),) = value.items()
    ASSIGNMENTS[name]
    if isinstance(argument, list | tuple):
        return Assignment(name, tuple(map(_whole, argument)))
    return Assignment(name, None if argument is None else _whole(argument))


def _whole(number: Any) -> int:
    """Return a number of banks or of a bank; raise :class:`PlanError` for anything else."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MOST_LAYERS:
        raise PlanError(
            f"an assignment's argument is a whole number, or a list of them for owners, but got "
            f"{shown(number)}",
            "write cycle: 3 or owners: [0, 0, 1]",
        )
    return number


def write_assignment(assignment: Assignment) -> str | dict[str, Any]:
    """Write an assignment so that :func:`read_assignment` reads it back."""
    argument = assignment.argument
    if argument is None:
        return assignment.name
    return {assignment.name: list(argument) if isinstance(argument, tuple) else argument}


AssignmentField = Annotated[
    Assignment, BeforeValidator(reader(read_assignment)), PlainSerializer(write_assignment)
]
