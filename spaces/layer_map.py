"""A plan as a table of layers, for drawings: which bank each part of each layer reads."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase

from sharetune.spaces.plan import PARTS, SharingPlan


@dataclass(frozen=True)
class Reading:
    """One part of one layer and a bank it reads.

    `share` (0..1) of the units of its `roles` come from the bank; None: of the whole part.
    """

    bank: str
    share: float
    form: str
    roles: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Layer:
    """One layer of a stack: what its attention and its FFN read, and how many times it runs.

    `index` is its place (0-based) in the unshared model. An empty tuple: all private.
    """

    stack: str
    index: int
    removed: bool
    attention: tuple[Reading, ...]
    ffn: tuple[Reading, ...]
    times: int = 1


def layer_map(plan: SharingPlan, depths: Mapping[str, int]) -> list[Layer]:
    """List the layers of all stacks in order. `plan` is bound; `depths`: layers by stack."""
    readings: dict[tuple[str, int, str], list[Reading]] = defaultdict(list)
    removed: set[tuple[str, int]] = set()
    sharing = [group for group in plan.groups if not group.form.removes_layers]
    for group in set(plan.groups) - set(sharing):
        removed |= {(group.stack or "", int(layer)) for layer in group.layers}
    banks = [(g, own) for g in sharing if not g.only_loops for own in g.readers()]
    for number, (group, own) in enumerate(banks):
        for part, roles in PARTS.items():
            covered = tuple(role for role in roles if role in group.parts)
            whole = None if covered == roles else covered
            reading = Reading(bank_name(number), group.form.share(), group.form.name, whole)
            for layer in own if covered else ():
                readings[group.stack or "", layer, part].append(reading)
    times = {(g.stack or "", int(layer)): g.times for g in sharing for layer in g.layers}
    return [
        Layer(
            stack,
            index,
            (stack, index) in removed,
            tuple(readings[stack, index, "attention"]),
            tuple(readings[stack, index, "ffn"]),
            times.get((stack, index), 1),
        )
        for stack, depth in depths.items()
        for index in range(depth)
    ]


def bank_name(index: int) -> str:
    """Return the letters of a bank for drawings: A, B, ..., Z, A1, B1, ..."""
    turn, letter = divmod(index, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn) if turn else "")
