"""The edits that are scored by default, and those that a study's space allows.

Stacks say how many heads and neurons there are, but not how wide the residual stream is; ranks
are made from `widths`, the hidden size by stack, and are left out of the default grid without it.
Some edits may save nothing in a given model: exact counts tell which.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.forms import Bank, Basis, Drop, Form, LowRank, Merge, Narrow, Tie, read_form
from sharetune.spaces.group import Group
from sharetune.spaces.layers import resolve_layers
from sharetune.spaces.leaves import is_choice, is_each, is_range
from sharetune.spaces.parts import EXPERTS, PARTS, read_parts
from sharetune.spaces.planning.edits import Edit
from sharetune.spaces.space import Space
from sharetune.spaces.stack_shape import StackShape
from sharetune.spaces.template import GroupTemplate, Region

Stacks = Mapping[str, StackShape]

KINDS = ("drop", "narrow", "tie", "bank", "basis", "lowrank", "merge")
"""Forms in the default grid."""

NARROW_KEEPS = {
    "ffn": (0.9, 0.8, 0.7, 0.55, 0.4, 0.25, 0.1),
    "attention": (0.75, 0.5, 0.25),
    EXPERTS: (0.875, 0.75, 0.5, 0.25),
}
"""Fractions of its neurons, of its heads or KV groups and of its experts that a layer keeps."""

BANK_RATIOS = (0.25, 0.5)
"""Fractions of the units of a pair that read the bank."""

STORED = {"basis": 0.8, "lowrank": 0.65}
"""Part of the parameters of a pair's FFN that a form with ranks stores."""

RANGE_PARTS = (0.5, 0.0, 1.0)
"""Places on a range in a space whose values are taken, the one that says most first."""


@dataclass(frozen=True)
class Pattern:
    """One change, to be tried on every `span` adjacent layers of a stack."""

    form: Form
    parts: tuple[str, ...] = tuple(PARTS)
    init: str | int = "mean"
    span: int = 2


def grid(
    stacks: Stacks,
    *,
    widths: Mapping[str, int] | None = None,
    kinds: Collection[str] = KINDS,
) -> tuple[Edit, ...]:
    """List the edits of a model that are scored by default, always in the same order.

    Every layer dropped, and its FFN, its attention and its experts narrowed; of every two adjacent
    layers the FFN or the attention tied, in a bank, on a basis (FFN alone) and with low-rank
    additions, and both layers merged; and two whole layers tied. A tie and a merge start from the
    first layer and from the last: "the second is replaced by the first", and the other way round.
    `kinds` are the forms that are kept.
    """
    edits: dict[Edit, None] = {}
    for stack, shape in stacks.items():
        width = (widths or {}).get(stack)
        patterns = [p for p in default_patterns(shape, width) if p.form.name in kinds]
        edits |= dict.fromkeys(_edits(patterns, stack, stacks, range(shape.depth)))
    return tuple(edits)


def default_patterns(shape: StackShape, width: int | None = None) -> list[Pattern]:
    """List the changes tried in a stack; with ranks if its hidden size, `width`, is given."""
    patterns = [Pattern(Drop(), span=1)]
    for part, keeps in NARROW_KEEPS.items():
        patterns += [Pattern(Narrow(keep=keep), (part,), span=1) for keep in keeps]
    for part in ("ffn", "attention"):
        patterns += [Pattern(Tie(), (part,), init) for init in ("first", "last")]
        patterns += [Pattern(Bank(ratio=ratio), (part,)) for ratio in BANK_RATIOS]
    patterns += [Pattern(Tie(), init=init) for init in ("first", "last")]
    patterns += _ranked_patterns(shape, width) if width else []
    return patterns + [Pattern(Merge(), init=init) for init in ("first", "last")]


def _ranked_patterns(shape: StackShape, width: int) -> list[Pattern]:
    neurons = min(map(shape.neurons_of, range(shape.depth)))
    return [
        Pattern(Basis(rank=_basis_rank(width, neurons)), ("ffn",)),
        Pattern(LowRank(rank=_added_rank(width, neurons)), ("ffn",)),
        Pattern(LowRank(rank=_added_rank(width, width)), ("attention",)),
    ]


def _basis_rank(one: int, other: int) -> int:
    """Rank at which a basis of two matrices, `one` x `other`, stores the part of `STORED`."""
    return max(1, int(STORED["basis"] * 2 * one * other / (one + 2 * other)))


def _added_rank(one: int, other: int) -> int:
    """Rank at which a tie of two matrices with low-rank additions stores the part of `STORED`."""
    return max(1, int((2 * STORED["lowrank"] - 1) * one * other / (2 * (one + other))))


def grid_of(
    space: Space, stacks: Stacks, *, widths: Mapping[str, int] | None = None
) -> tuple[Edit, ...]:
    """List the edits that a study's space allows; a space without groups allows the whole grid.

    For each template of groups: its forms with the knobs it gives (of a range the middle and
    both ends), on each single layer it may take where the form is drop or narrow, else on each run
    of as many adjacent layers as it asks for at least, two or more. Parts and starts are those it
    names; where it names none each part is an edit of its own, and ties and merges start from
    the first layer and from the last. Combinations that no group can have are left out, and so
    are `assign`, `times` and `order`.
    """
    if not space.plan:
        return grid(stacks, widths=widths)
    edits: dict[Edit, None] = {}
    for template in space.plan:
        for stack in stacks if template.stack is None else (template.stack,):
            layers = _layers(template.layers, stack, stacks[stack])
            edits |= dict.fromkeys(_edits(_patterns(template), stack, stacks, layers))
    return tuple(edits)


def _patterns(template: GroupTemplate) -> Iterator[Pattern]:
    least = template.layers.min if isinstance(template.layers, Region) else 2
    named = template.model_fields_set
    for written in _values(template.form):
        form = read_form(written)
        single = isinstance(form, Drop | Narrow)
        both = ("first", "last") if isinstance(form, Tie | Merge) else ("mean",)
        inits = _values(template.init) if "init" in named else both
        apart = [form.roles() or part for part in PARTS]
        parts = _values(template.parts) if "parts" in named else apart
        for own, init in product(map(read_parts, parts), inits):
            yield Pattern(form, own, init, 1 if single else max(2, least))


def _layers(leaf: object, stack: str, shape: StackShape) -> tuple[int, ...]:
    """All layers that a template's groups may take."""
    specs = [leaf.within] if isinstance(leaf, Region) else _values(leaf)
    groups = [Group(layers=spec).layers for spec in specs]
    return tuple(sorted({i for g in groups for i in resolve_layers(g, shape.depth, stack)}))


def _values(leaf: Any) -> list[Any]:
    """Values of a space's leaf that the grid takes."""
    if is_choice(leaf):
        return [value for choice in leaf["choices"] for value in _values(choice)]
    if is_range(leaf):
        return _spaced(leaf["low"], leaf["high"], leaf.get("step"), log=bool(leaf.get("log")))
    if is_each(leaf):
        return _values(leaf["each"])
    if isinstance(leaf, list):
        return [list(found) for found in product(*map(_values, leaf))]
    if isinstance(leaf, dict):
        found = product(*map(_values, leaf.values()))
        return [dict(zip(leaf, values, strict=True)) for values in found]
    return [leaf]


def _spaced(low: float, high: float, step: float | None, *, log: bool) -> list[float]:
    whole = all(isinstance(number, int) for number in (low, high, step or 1))
    step = step or (1 if whole else None)
    values = []
    for part in RANGE_PARTS:
        value = low * (high / low) ** part if log else low + part * (high - low)
        value = low + step * int((value - low) / step + 1e-9) if step else value
        values.append(int(value) if whole else round(value, 12))
    return list(dict.fromkeys(values))


def _edits(
    patterns: Iterable[Pattern], stack: str, stacks: Stacks, layers: Collection[int]
) -> Iterator[Edit]:
    """Each pattern on each run of adjacent `layers` it fits on; a stack keeps a layer."""
    shape = stacks[stack]
    for pattern in patterns:
        for first in layers:
            window = range(first, first + pattern.span)
            removes_all = isinstance(pattern.form, Drop) and pattern.span == shape.depth
            if set(window) <= set(layers) and _fits(pattern, window, shape) and not removes_all:
                yield from _bound(pattern, tuple(window), stack, stacks)


def _fits(pattern: Pattern, window: range, shape: StackShape) -> bool:
    """Whether layers that are to become one are of one width."""
    return isinstance(pattern.form, Drop | Narrow) or shape.at(window).is_uniform


def _bound(
    pattern: Pattern, layers: tuple[int, ...], stack: str, stacks: Stacks
) -> tuple[Edit, ...]:
    rule = {"parts": pattern.parts, "form": pattern.form, "init": pattern.init}
    try:
        return Edit.of(Group.model_validate({"layers": layers, "stack": stack, **rule}), stacks)
    except SharetuneError:
        return ()
