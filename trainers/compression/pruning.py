"""Choose heads and neurons to remove: of a bank for all readers, of a private matrix for one.

Units at one position of several layers that read one bank entry, or run again, are one unit: they
are removed together. How count are removed follows from the plan alone, so that a pruned model's
size is known before training and its shapes need not be stored.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sharetune.spaces.compression import Compression, RemoveUnits
from sharetune.spaces.errors import PlanError
from sharetune.spaces.parts import FFN
from sharetune.trainers.models.feasibility import refuse_removal
from sharetune.trainers.models.forms.bank import BankLinear
from sharetune.trainers.models.modules import resolved
from sharetune.trainers.models.narrowing import Place, shared_of
from sharetune.trainers.models.structure import Slot, Stack, attention_path, find_stacks


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
    prefix = attention_path(slots[0].path)
    own = [stack.families(index)[prefix] for index in range(len(stack.layers))]
    found: dict[tuple[Place, ...], list[int]] = defaultdict(list)
    for position in range(max(slots[0].units for slots in own)):
        for layers in _tied_layers(stack, own, position):
            found[tuple((stack.name, index, prefix) for index in layers)].append(position)
    return [TiedUnits(places, tuple(positions)) for places, positions in found.items()]


def _families(model: PreTrainedModel) -> Iterator[tuple[Stack, list[Slot]]]:
    """Yield each stack with the matrices of each of its attentions, and of its FFN."""
    for stack in find_stacks(model).values():
        yield from ((stack, slots) for slots in stack.families().values())


def _check_prunable(stack: Stack, slots: Sequence[Slot]) -> None:
    what = "neurons" if slots[0].role in FFN else "heads"
    refuse_removal(stack, slots, f"leave {what} out of compression")
    for slot in slots:
        for layer in stack.layers:
            module = resolved(layer.get_submodule(slot.path))
            if type(module) not in (BankLinear, nn.Linear, Conv1D):
                raise PlanError(
                    f"{what} of a {type(module).__name__} cannot be removed: they are not its own",
                    f"use form: tie or bank, or leave {what} out of compression",
                )


def _tied_layers(
    stack: Stack, own: Sequence[Sequence[Slot]], position: int
) -> list[tuple[int, ...]]:
    """Return sets of layers whose unit at `position` is one unit, by a bank or a repetition.

    `own` are each layer's matrices. Layers without such a unit are in none.
    """
    joined = list(range(len(stack.layers)))
    owners: dict[int, int] = {}
    having = [index for index, slots in enumerate(own) if position < slots[0].units]
    for index in having:
        for slot in own[index]:
            module = resolved(stack.layers[index].get_submodule(slot.path))
            for tied in _modules_read_at(module, slot, position):
                first = owners.setdefault(id(tied), index)
                old, new = joined[index], joined[first]
                joined = [new if root == old else root for root in joined]
    sets: dict[int, list[int]] = defaultdict(list)
    for index in having:
        sets[joined[index]].append(index)
    return [tuple(layers) for layers in sets.values()]


def _modules_read_at(module: nn.Module, slot: Slot, position: int) -> list[nn.Module]:
    """Return the modules that other layers may read at `position`: the matrix, a bank's entry."""
    in_bank = isinstance(module, BankLinear) and position < shared_of(module.cut, slot)
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
