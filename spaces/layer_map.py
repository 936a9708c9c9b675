"""A plan as a table of layers, for drawings: which bank each part of each layer reads."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase

from sharetune.spaces.forms import Narrow
from sharetune.spaces.parts import ATTENTION, EXPERTS, FFN, NARROWED, PARTS
from sharetune.spaces.plan import SharingPlan


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

    `index` is its place (0-based) in the unshared model. An empty tuple: all private. A narrowed
    layer keeps the fraction `kept` (0..1) of the units of ``attention``, ``ffn`` and ``experts``,
    which are drawn as its FFN. A layer that
    takes the place of others has all of them as its `span`; one whose place is taken is removed,
    and `merged_into` is the layer that does its work.
    """

    stack: str
    index: int
    removed: bool
    attention: tuple[Reading, ...]
    ffn: tuple[Reading, ...]
    times: int = 1
    kept: tuple[tuple[str, float], ...] = ()
    span: tuple[int, ...] = ()
    merged_into: int | None = None

    def keeps(self, part: str) -> float:
        """Return the fraction (0..1) of a part's units that the layer keeps."""
        kept = self.kept_units(part)
        return kept[0][0] if kept else 1.0

    def kept_units(self, part: str) -> list[tuple[float, str]]:
        """Return the fractions that a narrowed layer keeps, each with what it is a fraction of:
        ``units`` of the part, and ``experts`` with those of ``ffn``."""
        kept, names = dict(self.kept), {part: "units"}
        if part == "ffn":
            names[EXPERTS] = EXPERTS
        return [(kept[name], units) for name, units in names.items() if name in kept]


def layer_map(plan: SharingPlan, depths: Mapping[str, int]) -> list[Layer]:
    """List the layers of all stacks in order. `plan` is bound; `depths`: layers by stack."""
    readings: dict[tuple[str, int, str], list[Reading]] = defaultdict(list)
    removed = {(g.stack or "", layer) for g in plan.groups for layer in g.removed()}
    kept: dict[tuple[str, int], list[tuple[str, float]]] = defaultdict(list)
    for group in plan.groups:
        if isinstance(group.form, Narrow):
            keep = group.form.keep
            parts = [part for part, roles in NARROWED.items() if set(roles) <= set(group.parts)]
            for layer in group.layers:
                kept[group.stack or "", int(layer)] += [(part, keep) for part in parts]
    sharing = [group for group in plan.groups if group.form.shares]
    spans: dict[str, dict[int, tuple[int, ...]]] = defaultdict(dict)
    for group in plan.groups:
        spans[group.stack or ""] |= group.spans()
    banks = [(g, own) for g in sharing if not g.only_loops for own in g.readers()]
    for number, (group, own) in enumerate(banks):
        for part, roles in (("attention", ATTENTION), ("ffn", (*FFN, EXPERTS))):
            covered = tuple(role for role in roles if role in group.parts)
            whole = None if covered == PARTS[part] else covered
            for layer in own if covered else ():
                share = group.form_of((layer,)).share()
                reading = Reading(bank_name(number), share, group.form.name, whole)
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
            tuple(kept[stack, index]),
            spans[stack].get(index, ()),
            _standing_for(index, spans[stack]),
        )
        for stack, depth in depths.items()
        for index in range(depth)
    ]


def _standing_for(index: int, spans: Mapping[int, tuple[int, ...]]) -> int | None:
    """Return the other layer that does this one's work, if there is one."""
    return next((i for i, span in spans.items() if index in span and index != i), None)


def bank_name(index: int) -> str:
    """Return the letters of a bank for drawings: A, B, ..., Z, A1, B1, ..."""
    turn, letter = divmod(index, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn) if turn else "")
