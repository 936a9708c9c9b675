"""Chooses heads and neurons to remove: of a bank for all its readers, of a private matrix for one.

Units that stand at one place of several layers and read one bank entry, or run again, are one:
they go together. How many of each sort go follows from the plan alone, so that a pruned model's
size is known before it is trained and its shapes need not be stored.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import PlanError
from sharetune.spaces.plan import FFN
from sharetune.trainers.models.feasibility import refuse_removal
from sharetune.trainers.models.forms.bank import BankLinear
from sharetune.trainers.models.modules import resolved
from sharetune.trainers.models.narrowing import Place, shared_of
from sharetune.trainers.models.structure import Slot, Stack, family, find_stacks


@dataclass(frozen=True)
class Sort:
    """Units that the same layers have in common: `places`, and where in each of them they lie."""

    places: tuple[Place, ...]
    positions: tuple[int, ...]


def choose(
    model: PreTrainedModel,
    compression: Compression,
    importance: Mapping[Place, Tensor] | None = None,
) -> dict[Place, Tensor]:
    """The units that stay: of every sort all but a fraction, rounded down, of the least important.

    Without `importance` those that go are the last. Raises :class:`PlanError` where units cannot
    be removed.
    """
    kept: dict[Place, Tensor] = {}
    for stack, slots in _families(model):
        fraction = compression.neurons if slots[0].role in FFN else compression.heads
        if fraction > 0:
            _refuse_unfit(stack, slots)
            for sort in sorts(stack, slots):
                for place, positions in _staying(sort, fraction, importance).items():
                    kept[place] = (
                        torch.cat([kept[place], positions]) if place in kept else positions
                    )
    return {place: positions.sort().values for place, positions in kept.items()}


def sorts(stack: Stack, slots: Sequence[Slot]) -> list[Sort]:
    """The units of one attention, or of the FFN, of all layers, by the layers they tie."""
    prefix = family(slots[0].path)
    own = [stack.families(index)[prefix] for index in range(len(stack.layers))]
    found: dict[tuple[Place, ...], list[int]] = defaultdict(list)
    for position in range(max(slots[0].units for slots in own)):
        for layers in _tied(stack, own, position):
            found[tuple((stack.name, index, prefix) for index in layers)].append(position)
    return [Sort(places, tuple(positions)) for places, positions in found.items()]


def _families(model: PreTrainedModel) -> Iterator[tuple[Stack, list[Slot]]]:
    """The matrices of each attention, and of the FFN, of each stack."""
    for stack in find_stacks(model).values():
        yield from ((stack, slots) for slots in stack.families().values())


def _refuse_unfit(stack: Stack, slots: Sequence[Slot]) -> None:
    what = "neurons" if slots[0].role in FFN else "heads"
    refuse_removal(stack, slots, f"leave {what} out of compression")
    for slot in slots:
        for layer in stack.layers:
            module = resolved(layer.get_submodule(slot.path))
            if not isinstance(module, BankLinear | nn.Linear | Conv1D):
                raise PlanError(
                    f"{what} of a {type(module).__name__} cannot be removed: they are not its own",
                    f"use form: tie or bank, or leave {what} out of compression",
                )


def _tied(stack: Stack, own: Sequence[Sequence[Slot]], position: int) -> list[tuple[int, ...]]:
    """The layers that have a unit at `position`, in sets of those where it reads a bank together;
    `own` are each layer's matrices."""
    joined = list(range(len(stack.layers)))
    owners: dict[int, int] = {}
    having = [index for index, slots in enumerate(own) if position < slots[0].units]
    for index in having:
        for slot in own[index]:
            module = resolved(stack.layers[index].get_submodule(slot.path))
            for tied in _tied_at(module, slot, position):
                first = owners.setdefault(id(tied), index)
                old, new = joined[index], joined[first]
                joined = [new if root == old else root for root in joined]
    sets: dict[int, list[int]] = defaultdict(list)
    for index in having:
        sets[joined[index]].append(index)
    return [tuple(layers) for layers in sets.values()]


def _tied_at(module: nn.Module, slot: Slot, position: int) -> list[nn.Module]:
    """What other layers may read at `position`, too: a matrix that runs again, a bank's entry."""
    in_bank = isinstance(module, BankLinear) and position < shared_of(module.cut, slot)
    return [module, module.entry] if in_bank else [module]


def _staying(
    sort: Sort, fraction: float, importance: Mapping[Place, Tensor] | None
) -> dict[Place, Tensor]:
    positions = torch.tensor(sort.positions)
    many = len(positions) - int(fraction * len(positions) + 1e-9)
    chosen = positions[:many]
    if importance is not None:
        scores = torch.stack([importance[place][positions] for place in sort.places]).sum(0)
        chosen = positions[scores.topk(many).indices]
    return dict.fromkeys(sort.places, chosen)
