"""Choose which units of a group's layers are shared, and align those that match.

Permuting heads or neurons does not change a layer's function. So every layer is permuted to have
the shared units first, and matching units at the same position in all layers. Which units stay
private matters more than how a bank is made: keeping those with the largest contribution private
cuts the error of a shared FFN to a third (docs/log.md).
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharetune.spaces.parts import FFN
from sharetune.spaces.registry import Registry
from sharetune.spaces.units import UNITS
from sharetune.trainers.models.calibration import Activations
from sharetune.trainers.models.matching import Partners, matched
from sharetune.trainers.models.structure import (
    Slot,
    Stack,
    attention_path,
    is_norm,
    matrices,
    weight_out_in,
)

HEAD_TOKENS = 512
"""Tokens by which heads are matched: enough to tell heads apart, and few because each costs ``out``
numbers a head."""

HEAD_BIAS_WORD = re.compile(r"alibi|position_bias")
"""Arguments of an attention's forward that differ between heads."""

HEADS_WORD = re.compile(r"(q|k|v|query|key|value)_")
"""Start of the name of a norm that is applied to the heads of q, k or v."""


@dataclass(frozen=True)
class UnitView:
    """The units of one family (one attention, or the FFN) in one layer.

    `importance` (units) is the norm of each unit's contribution to the layer's output. `features`
    computes the vectors by which units are matched, (units, any), normalised to length 1.
    """

    importance: Tensor
    features: Callable[[], Tensor]


Order = Callable[[Sequence[UnitView], Sequence[int]], list[Tensor]]
"""``(views of the layers, number of shared units of each) -> permutation of each's units``, the
shared units first, both parts in matching order. A layer that shares fewer matches the first ones
of those that share more."""

ORDERS: Registry[Order] = Registry("choice of units", declared=UNITS)


@ORDERS.register("first")
def first(views: Sequence[UnitView], shared: Sequence[int]) -> list[Tensor]:
    """the first units, in their present order"""
    return [torch.arange(len(view.importance)) for view in views]


@ORDERS.register("best-match")
def best_match(views: Sequence[UnitView], shared: Sequence[int]) -> list[Tensor]:
    """the units that match best across layers"""
    reference = views[(len(views) - 1) // 2]
    theirs = reference.features()
    everyone = torch.arange(len(theirs))
    partners = Partners(theirs)
    others = [view for view in views if view is not reference]
    found = iter(matched([(view.features, [(partners, everyone)]) for view in others]))
    orders = [everyone if view is reference else next(found) for view in views]
    scores = [
        (view.features()[own] * theirs).sum(1) for view, own in zip(views, orders, strict=True)
    ]
    order = _in_tiers(torch.stack(scores).sum(0).argsort(descending=True), shared)
    return [own[order] for own in orders]


@ORDERS.register("importance")
def importance(views: Sequence[UnitView], shared: Sequence[int]) -> list[Tensor]:
    """the least important units, matched; the important ones stay private"""
    widest = [place for place, count in enumerate(shared) if count == max(shared)]
    leader = views[widest[(len(widest) - 1) // 2]]
    order, features = _in_tiers(leader.importance.argsort(), shared), leader.features()
    partners = {
        count: [Partners(features[units]) for units in (order[:count], order[count:])]
        for count in set(shared)
    }
    meetings = []
    for view, count in zip(views, shared, strict=True):
        least = view.importance.argsort()[:count].sort().values
        rows = least, _others(least, len(view.importance))
        if view is not leader:
            meetings.append((view.features, list(zip(partners[count], rows, strict=True))))
    found = iter(matched(meetings))
    return [order if view is leader else next(found) for view in views]


def _in_tiers(ranked: Tensor, shared: Sequence[int]) -> Tensor:
    """Return units in order of rank between the numbers that layers share, as stored within."""
    ends = sorted({0, *shared, len(ranked)})
    return torch.cat([ranked[a:b].sort().values for a, b in pairwise(ends)])


def _others(chosen: Tensor, units: int) -> Tensor:
    """Return the units that are not `chosen`, in order."""
    left = torch.ones(units, dtype=torch.bool)
    left[chosen] = False
    return left.nonzero().flatten()


def align_(
    stack: str,
    layers: Mapping[int, nn.Module],
    slots: Sequence[Slot],
    order: Order,
    shared: Sequence[int],
    activations: Activations | None,
) -> Activations:
    """Permute, in place, the units of one family in `layers` of the stack `stack`.

    The keys of `layers` are the layer numbers of `activations`; each shares as many units as
    `shared` says. `slots` are all matrices of the
    family. Without `activations` units are matched by their weights alone. Returns the activations
    whose columns are units, with the columns in the new order.
    """
    out = _output(slots)
    views = [
        _view(layer, slots, (activations or {}).get((stack, number, out.path)))
        for number, layer in layers.items()
    ]
    permuted = {}
    for number, permutation in zip(layers, order(views, shared), strict=True):
        for slot in slots:
            permute_(layers[number].get_submodule(slot.path), slot, permutation)
        key = (stack, number, out.path)
        if activations and key in activations:
            permuted[key] = activations[key][:, _entries(out, permutation)]
    return permuted


def can_align(stack: Stack, slots: Sequence[Slot]) -> bool:
    """Return whether permuting this family's units leaves the model's function unchanged.

    It does not if another tensor has one entry a unit: T5's and Swin's relative position biases,
    ALiBi's slopes, a norm over all heads or over the FFN's neurons.
    """
    if not any(slot.axis == 1 for slot in slots):
        return False
    paths = {slot.path for slot in slots}
    own = [[slot for slot in every if slot.path in paths] for every in stack.layer_slots]
    if slots[0].role in FFN:
        return not all(map(_has_neurons, stack.layers, own))
    return not any(map(_has_heads, stack.layers, own))


def _has_neurons(layer: nn.Module, slots: Sequence[Slot]) -> bool:
    """Return whether a tensor other than the matrices has a dimension of the FFN's width."""
    known = {path for path, _ in matrices(layer)}
    tensors = [p for n, p in layer.named_parameters() if not _inside(n, known)]
    return any(slots[0].units in tensor.shape for tensor in tensors)


def _has_heads(layer: nn.Module, slots: Sequence[Slot]) -> bool:
    """Return whether the attention has a weight or an argument that may differ between heads."""
    prefix = attention_path(slots[0].path)
    attention = layer.get_submodule(prefix)
    known = {slot.path for slot in slots}
    width = min(size // slot.units for slot in slots if slot.axis == 0 for size in slot.sections)
    return any(
        HEAD_BIAS_WORD.search(argument)
        for module in attention.modules()
        for argument in inspect.signature(module.forward).parameters
    ) or any(
        not _inside(f"{prefix}.{path}", known) and not _ignores_heads(path, module, width)
        for path, module in attention.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    )


def _inside(path: str, matrices: set[str]) -> bool:
    """Return whether `path` is one of these matrices, or a part of one."""
    return any(path == matrix or path.startswith(f"{matrix}.") for matrix in matrices)


def _ignores_heads(path: str, module: nn.Module, width: int) -> bool:
    """Return whether this is a norm of the mixed heads, or one of `width` that all heads share."""
    words = path.split(".")
    of_heads = [word for word in words if HEADS_WORD.match(word)]
    sizes = {parameter.numel() for parameter in module.parameters(recurse=False)}
    return is_norm(path, module) and (not of_heads or (of_heads == words[-1:] and sizes == {width}))


def contributions(layer: nn.Module, slots: Sequence[Slot], activations: Tensor | None) -> Tensor:
    """Return each unit's contribution to the layer's output (units), for one attention or FFN.

    `slots` are all its matrices, `activations` the inputs of its output matrix (tokens x columns);
    without them the weights alone decide.
    """
    answers = _answers(slots, activations)
    if answers is None or answers.shape[2] > 1:
        return _vectors(layer, slots, activations).norm(dim=1)
    return answers[:, :, 0].square().mean(1).sqrt() * _columns(layer, slots).norm(dim=1)


def _view(layer: nn.Module, slots: Sequence[Slot], activations: Tensor | None) -> UnitView:
    return UnitView(
        contributions(layer, slots, activations),
        lambda: functional.normalize(_vectors(layer, slots, activations)),
    )


def _vectors(layer: nn.Module, slots: Sequence[Slot], activations: Tensor | None) -> Tensor:
    """Return what units are compared by, (units, any): their answers, or all their weights."""
    answers = _answers(slots, activations)
    if answers is None:
        matrices = [(weight_out_in(layer.get_submodule(slot.path)), slot) for slot in slots]
        return torch.cat([_by_unit(w.detach().float(), slot) for w, slot in matrices], dim=1)
    if answers.shape[2] == 1:
        return answers[:, :, 0] - answers[:, :, 0].mean(1, keepdim=True)
    heads = _columns(layer, slots).unflatten(1, (-1, answers.shape[2]))
    return torch.einsum("utd,uod->uto", answers[:, :HEAD_TOKENS], heads).flatten(1)


def _answers(slots: Sequence[Slot], activations: Tensor | None) -> Tensor | None:
    """Return the inputs of the output matrix as (units, tokens, width of a unit)."""
    if activations is None:
        return None
    return activations.unflatten(1, (_output(slots).units, -1)).transpose(0, 1)


def _columns(layer: nn.Module, slots: Sequence[Slot]) -> Tensor:
    """Return the output matrix as (units, weights of the unit)."""
    out = _output(slots)
    return _by_unit(weight_out_in(layer.get_submodule(out.path)).detach().float(), out)


def _output(slots: Sequence[Slot]) -> Slot:
    return next(slot for slot in slots if slot.axis == 1)


def _by_unit(weight: Tensor, slot: Slot) -> Tensor:
    """Return the matrix as one row a unit: (units, all weights of the unit)."""
    along = weight if slot.axis == 0 else weight.T
    sections = along.split(slot.sections)
    rows = [section.unflatten(0, (slot.units, -1)) for section in sections]
    if slot.axis == 1:
        return torch.cat([r.transpose(1, 2).flatten(1) for r in rows], dim=1)
    return torch.cat([r.flatten(1) for r in rows], dim=1)


def permute_(module: nn.Module, slot: Slot, permutation: Tensor) -> None:
    """Put the units of one matrix, in place, in the order of `permutation`, biases with them."""
    order = _entries(slot, permutation).to(module.weight.device)
    weight = weight_out_in(module)
    weight.data.copy_(weight.data.index_select(slot.axis, order))
    if slot.axis == 0 and module.bias is not None:
        module.bias.data.copy_(module.bias.data.index_select(0, order))


def _entries(slot: Slot, permutation: Tensor) -> Tensor:
    """Return the slot's row or column indices in the order of its permuted units."""
    index, offset = [], 0
    for size in slot.sections:
        width = size // slot.units
        index.append(offset + permutation[:, None] * width + torch.arange(width))
        offset += size
    return torch.cat([part.flatten() for part in index])
