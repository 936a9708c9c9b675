"""Remove heads and neurons: from a bank for all readers, from a private matrix for its layer.

Units at one position of several layers that read one bank entry, or run again, are one unit: they
are removed together. How count are removed follows from the plan alone, so that a pruned model's
size is known before training and its shapes need not be stored.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sharetune.spaces.compression import Compression, RemoveUnits
from sharetune.spaces.errors import PlanError
from sharetune.spaces.plan import FFN
from sharetune.trainers.models.alignment import can_align
from sharetune.trainers.models.forms.bank import BankLinear
from sharetune.trainers.models.modules import resolved
from sharetune.trainers.models.structure import (
    HEADS_ATTRIBUTES,
    Slot,
    Stack,
    attention_path,
    find_stacks,
)
from sharetune.trainers.models.units import Cut

Place = tuple[str, int, str]
"""Stack, layer, and the path of the attention in it; empty for the FFN."""

Kept = Mapping[Place, Tensor]
"""The units that are kept in each place, in order."""

SIZE_ATTRIBUTES = (*HEADS_ATTRIBUTES, "num_key_value_heads", "all_head_size", "split_size")
"""Attributes of an attention that are multiples of its number of units (heads or KV groups)."""


@dataclass(frozen=True)
class TiedUnits:
    """Units that are tied between the same `places`, at the same `positions` in each."""

    places: tuple[Place, ...]
    positions: tuple[int, ...]


def units_to_keep(
    model: PreTrainedModel,
    fractions: Compression | RemoveUnits,
    importance: Mapping[Place, Tensor] | None = None,
) -> dict[Place, Tensor]:
    """Return the units to keep in each place, all but a fraction of the least important.

    In every set of tied units the number removed is rounded down. Without `importance` the last
    units are removed. Raises :class:`PlanError` if units cannot be removed.
    """
    kept: dict[Place, Tensor] = {}
    for stack, slots in _families(model):
        fraction = fractions.neurons if slots[0].role in FFN else fractions.heads
        if fraction > 0:
            _check_prunable(stack, slots)
            for tied in tied_units(stack, slots):
                for place, positions in _kept_of(tied, fraction, importance).items():
                    kept[place] = (
                        torch.cat([kept[place], positions]) if place in kept else positions
                    )
    return {place: positions.sort().values for place, positions in kept.items()}


def tied_units(stack: Stack, slots: Sequence[Slot]) -> list[TiedUnits]:
    """Return the units of one attention or FFN of all layers, by the layers that tie them."""
    prefix, units = attention_path(slots[0].path), slots[0].units
    found: dict[tuple[Place, ...], list[int]] = defaultdict(list)
    for position in range(units):
        for layers in _tied_layers(stack, slots, position):
            found[tuple((stack.name, index, prefix) for index in layers)].append(position)
    return [TiedUnits(places, tuple(positions)) for places, positions in found.items()]


def prune_(model: PreTrainedModel, kept: Kept) -> None:
    """Remove, in place, all units but `kept`; places missing from `kept` keep every unit."""
    done: set[int] = set()
    for stack, slots in _families(model):
        prefix = attention_path(slots[0].path)
        for index, layer in enumerate(stack.layers):
            units = kept.get((stack.name, index, prefix))
            if units is None:
                continue
            for slot in slots:
                module = resolved(layer.get_submodule(slot.path))
                if id(module) not in done:
                    done.add(id(module))
                    _prune_matrix(module, slot, units, done)
            _scale_sizes(layer.get_submodule(prefix), slots[0].units, len(units))


def _families(model: PreTrainedModel) -> Iterator[tuple[Stack, list[Slot]]]:
    """Yield each stack with the matrices of each of its attentions, and of its FFN."""
    for stack in find_stacks(model).values():
        families: dict[str, list[Slot]] = defaultdict(list)
        for slot in stack.slots:
            families[attention_path(slot.path)].append(slot)
        yield from ((stack, slots) for slots in families.values())


def _check_prunable(stack: Stack, slots: Sequence[Slot]) -> None:
    what = "neurons" if slots[0].role in FFN else "heads"
    if not can_align(stack, slots):
        raise PlanError(
            f"the {what} of stack {stack.name!r} cannot be removed: other weights, such as "
            "position biases, count on them",
            f"leave {what} out of compression",
        )
    for slot in slots:
        for layer in stack.layers:
            module = resolved(layer.get_submodule(slot.path))
            if not isinstance(module, BankLinear | nn.Linear | Conv1D):
                raise PlanError(
                    f"{what} of a {type(module).__name__} cannot be removed: they are not its own",
                    f"use form: tie or bank, or leave {what} out of compression",
                )


def _tied_layers(stack: Stack, slots: Sequence[Slot], position: int) -> list[tuple[int, ...]]:
    """Return sets of layers whose unit at `position` is one unit, by a bank or a repetition."""
    joined = list(range(len(stack.layers)))
    owners: dict[int, int] = {}
    for slot in slots:
        for index, layer in enumerate(stack.layers):
            for tied in _modules_read_at(resolved(layer.get_submodule(slot.path)), slot, position):
                first = owners.setdefault(id(tied), index)
                old, new = joined[index], joined[first]
                joined = [new if root == old else root for root in joined]
    sets: dict[int, list[int]] = defaultdict(list)
    for index, root in enumerate(joined):
        sets[root].append(index)
    return [tuple(layers) for layers in sets.values()]


def _modules_read_at(module: nn.Module, slot: Slot, position: int) -> list[nn.Module]:
    """Return the modules that other layers may read at `position`: the matrix, a bank's entry."""
    in_bank = isinstance(module, BankLinear) and position < _shared_units(module.cut, slot)
    return [module, module.entry] if in_bank else [module]


def _kept_of(
    tied: TiedUnits, fraction: float, importance: Mapping[Place, Tensor] | None
) -> dict[Place, Tensor]:
    positions = torch.tensor(tied.positions)
    count = len(positions) - int(fraction * len(positions) + 1e-9)
    chosen = positions[:count]
    if importance is not None:
        scores = torch.stack([importance[place][positions] for place in tied.places]).sum(0)
        chosen = positions[scores.topk(count).indices]
    return dict.fromkeys(tied.places, chosen)


def _shared_units(cut: Cut, slot: Slot) -> int:
    return cut.shared[0] // (slot.sections[0] // slot.units)


def _prune_matrix(module: nn.Module, slot: Slot, units: Tensor, done: set[int]) -> None:
    """Keep `units` of one matrix; a bank's entry is pruned once, and then listed in `done`."""
    widths = [size // slot.units for size in slot.sections]
    if not isinstance(module, BankLinear):
        _keep(module, slot.axis, _rows(widths, slot.units, units))
        return
    shared = _shared_units(module.cut, slot)
    ours, own = units[units < shared], units[units >= shared] - shared
    if id(module.entry) not in done:
        done.add(id(module.entry))
        _keep(module.entry, slot.axis, _rows(widths, shared, ours))
    if module.private is not None:
        _keep(module.private, slot.axis, _rows(widths, slot.units - shared, own))
    if module.own_bias is not None and slot.axis == 0:
        module.own_bias = _kept(module.own_bias, 0, _rows(widths, slot.units, units))
    sizes = [tuple(width * len(part) for width in widths) for part in (ours, own)]
    module.cut = Cut(slot.axis, *sizes)


def _rows(widths: Sequence[int], units: int, kept: Tensor) -> Tensor:
    """Return the row indices of the units `kept` in sections of `units` units, one a width."""
    parts, offset = [], 0
    for width in widths:
        parts.append((offset + kept[:, None] * width + torch.arange(width)).flatten())
        offset += width * units
    return torch.cat(parts)


def _keep(module: nn.Module, axis: int, index: Tensor) -> None:
    """Keep rows (axis 0, with their bias) or columns (axis 1) of a Linear or a Conv1D."""
    transposed = isinstance(module, Conv1D)
    module.weight = _kept(module.weight, 1 - axis if transposed else axis, index)
    if axis == 0 and module.bias is not None:
        module.bias = _kept(module.bias, 0, index)
    for name in (("nf", "nx") if transposed else ("out_features", "in_features"))[axis : axis + 1]:
        setattr(module, name, len(index))


def _kept(tensor: Any, axis: int, index: Tensor) -> nn.Parameter:
    chosen = tensor.detach().index_select(axis, index.to(tensor.device))
    return nn.Parameter(chosen.contiguous(), tensor.requires_grad)


def _scale_sizes(attention: nn.Module, before: int, after: int) -> None:
    """Update the attributes of an attention's modules that depend on the number of heads."""
    for module in attention.modules():
        for name in SIZE_ATTRIBUTES:
            size = vars(module).get(name)
            if isinstance(size, int) and size % before == 0:
                setattr(module, name, size // before * after)
