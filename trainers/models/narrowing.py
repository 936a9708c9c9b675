"""Remove units of layers: heads (KV groups), FFN neurons, experts; restore the width with zeros.

A unit goes with all that is its own: rows of the matrices that make it, columns of the one that
reads it, entries of biases, an expert's entries of its router. Which units stay is the caller's
choice, or by the importance that banks go by (`alignment.py`); of experts, by the sum over tokens
of the norm of what each gives (`mixtures.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sharetune.spaces.forms import Narrow
from sharetune.spaces.group import Group
from sharetune.spaces.parts import EXPERTS, FFN
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers.models.alignment import contributions
from sharetune.trainers.models.calibration import Activations
from sharetune.trainers.models.compensation import as_recorded, compensate_, unit_sizes
from sharetune.trainers.models.forms.bank import BankLinear
from sharetune.trainers.models.mixtures import (
    Mixture,
    keep_experts_,
    layer_tensor,
    weight_sizes,
    whole_router_logits_,
)
from sharetune.trainers.models.modules import dense_layer, resolved
from sharetune.trainers.models.structure import (
    SIZE_ATTRIBUTES,
    Slot,
    Stack,
    attention_path,
    find_stacks,
    weight_out_in,
)
from sharetune.trainers.models.units import Cut, kept_units

Place = tuple[str, int, str]
"""Stack, layer, and the attention's path in it; empty for the FFN."""

Kept = Mapping[Place, Tensor]
"""The units that stay in each place, in order."""


def narrow_(
    model: nn.Module,
    stacks: Mapping[str, Stack],
    groups: Iterable[Group],
    activations: Activations,
) -> Activations:
    """Remove, in place, the least important units of the layers of `groups`, whose form is narrow.

    `stacks` are those of `model`. The other heads and neurons take over what those gave as far as
    `activations` tell (`compensation.py`). Returns those of `activations` whose columns are the
    units, less what was removed. On the meta device, where nothing is important, the last units go.
    """
    left: dict[tuple[str, int, str], Tensor] = {}
    for group in groups:
        stack = stacks[group.stack or ""]
        for layer in map(int, group.layers):
            for slots in stack.families(layer).values():
                if slots[0].role in group.parts:
                    left |= _narrow_family(stack, layer, slots, group.form, activations)
            for mixture in stack.mixtures[layer] if EXPERTS in group.parts else ():
                left |= _narrow_mixture(stack, layer, mixture, group.form, activations)
                whole_router_logits_(_holder(model, stack), mixture.experts)
    return left


def _narrow_family(
    stack: Stack, number: int, slots: Sequence[Slot], form: object, activations: Activations
) -> Activations:
    assert isinstance(form, Narrow)
    layer = stack.layers[number]
    out = next(slot for slot in slots if slot.axis == 1)
    key = stack.name, number, out.path
    count, seen = kept_units(out, form), activations.get(key)
    kept, matrix = torch.arange(count), layer.get_submodule(out.path)
    if not weight_out_in(matrix).is_meta and count < out.units:
        moments = as_recorded(activations).moments_at(key)
        found = unit_sizes(matrix, out, moments) if moments else contributions(layer, slots, None)
        kept = found.cpu().topk(count).indices.sort().values
        if moments:
            compensate_(matrix, rows_of(out, kept).to(found.device), moments)
    keep_in_layer_(layer, slots, kept, set())
    return {} if seen is None else {key: seen[:, rows_of(out, kept).to(seen.device)]}


def _narrow_mixture(
    stack: Stack, number: int, mixture: Mixture, form: object, activations: Activations
) -> Activations:
    """Keep the experts that give most to their layer's output, or whose weights are largest."""
    assert isinstance(form, Narrow)
    layer, count = stack.layers[number], form.kept(mixture.experts)
    key = stack.name, number, mixture.path
    seen = activations.get(key)
    if layer_tensor(layer, mixture.own[0]).is_meta:
        importance = -torch.arange(float(mixture.experts))
    else:
        importance = weight_sizes(layer, mixture) if seen is None else seen.sum(0).cpu()
    kept = mixture.most_important(importance, count)
    keep_experts_(layer, mixture, kept)
    return {} if seen is None else {key: seen[:, kept.to(seen.device)]}


def fit_(model: PreTrainedModel, units: Mapping[str, Mapping[str, Any]]) -> None:
    """Remove, in place, the last units of layers that have more than `units` says: by stack,
    `heads`, `neurons` and `experts` as :class:`StackShape` has them; 0: not known."""
    for name, stack in find_stacks(model).items():
        saved = {"depth": len(stack.layers), **units[name]} if name in units else None
        shape = StackShape(**saved) if saved else stack.shape
        for index, layer in enumerate(stack.layers):
            heads, neurons = shape.heads_of(index), shape.neurons_of(index)
            for slots in stack.families(index).values():
                count = neurons if slots[0].role in FFN else heads
                if count < slots[0].units:
                    keep_in_layer_(layer, slots, torch.arange(count), set())
            for mixture in stack.mixtures[index]:
                if 0 < shape.experts_of(index) < mixture.experts:
                    keep_experts_(layer, mixture, torch.arange(shape.experts_of(index)))
                    whole_router_logits_(_holder(model, stack), mixture.experts)


def _holder(model: nn.Module, stack: Stack) -> nn.Module:
    """Return the module that holds a stack's list of layers."""
    return model.get_submodule(stack.path.rpartition(".")[0])


def keep_units_(model: PreTrainedModel, kept: Kept) -> None:
    """Remove, in place, all units but `kept`; places missing from it keep every unit."""
    done: set[int] = set()
    for stack in find_stacks(model).values():
        for index, layer in enumerate(stack.layers):
            for prefix, slots in stack.families(index).items():
                units = kept.get((stack.name, index, prefix))
                if units is not None:
                    keep_in_layer_(layer, slots, units, done)


def keep_in_layer_(layer: nn.Module, slots: Sequence[Slot], units: Tensor, done: set[int]) -> None:
    """Keep `units` of one attention or FFN of a layer, whose matrices are `slots`.

    Modules whose id is in `done` are left as they are; the others are added to it.
    """
    for slot in slots:
        module = resolved(layer.get_submodule(slot.path))
        if id(module) not in done:
            done.add(id(module))
            _keep_in_matrix(module, slot, units, done)
    _scale_sizes(layer.get_submodule(attention_path(slots[0].path)), slots[0].units, len(units))


def shared_of(cut: Cut, slot: Slot) -> int:
    """Return how many of a slot's units the cut shares."""
    return cut.shared[0] // (slot.sections[0] // slot.units)


def _keep_in_matrix(module: nn.Module, slot: Slot, units: Tensor, done: set[int]) -> None:
    """Keep `units` of one matrix; of a bank's entry, once, those of a layer that reads it all."""
    widths = [size // slot.units for size in slot.sections]
    if not isinstance(module, BankLinear):
        _keep(module, slot.axis, rows_of(slot, units))
        return
    shared = shared_of(module.cut, slot)
    ours, own = units[units < shared], units[units >= shared] - shared
    if id(module.entry) not in done and module.reads.is_whole:
        done.add(id(module.entry))
        _keep(module.entry, slot.axis, _rows(widths, shared, ours))
    if module.private is not None:
        _keep(module.private, slot.axis, _rows(widths, slot.units - shared, own))
    if module.own_bias is not None and slot.axis == 0:
        module.own_bias = _kept(module.own_bias, 0, rows_of(slot, units))
    sizes = [tuple(width * len(part) for width in widths) for part in (ours, own)]
    module.cut = Cut(slot.axis, *sizes)


def rows_of(slot: Slot, kept: Tensor) -> Tensor:
    """Return the rows, or columns, of the units `kept` in a slot's matrix."""
    return _rows([size // slot.units for size in slot.sections], slot.units, kept)


def _rows(widths: Sequence[int], units: int, kept: Tensor) -> Tensor:
    """Return the row indices of the units `kept` in sections of `units` units, one a width."""
    parts, offset = [], 0
    for width in widths:
        parts.append((offset + kept[:, None] * width + torch.arange(width)).flatten())
        offset += width * units
    return torch.cat(parts)


def _keep(module: nn.Module, axis: int, index: Tensor) -> None:
    """Keep rows (axis 0) or columns of a Linear or a Conv1D, and the bias entries of kept rows."""
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


def pad_(model: PreTrainedModel, whole: Mapping[str, Stack]) -> int:
    """Widen, in place, the layers of a dense `model` to those of the stacks `whole` by zero units.

    The model computes what it did. Returns the number of units added.
    """
    added = 0
    for name, stack in find_stacks(model).items():
        for index, layer in enumerate(stack.layers):
            wide = whole[name].families(index)
            for prefix, slots in stack.families(index).items():
                lacking = wide[prefix][0].units - slots[0].units
                for slot, target in zip(slots, wide[prefix], strict=True) if lacking else ():
                    module = layer.get_submodule(slot.path)
                    layer.set_submodule(slot.path, _padded(module, slot, target))
                added += lacking
    return added


def _padded(module: nn.Module, slot: Slot, target: Slot) -> nn.Module:
    """Return a matrix with zeros for the units that `target` has more, after the others."""
    bias: Any = module.bias
    return dense_layer(
        _with_zeros(weight_out_in(module).detach(), slot, target),
        _with_zeros(bias.detach(), slot, target) if bias is not None and slot.axis == 0 else bias,
        transposed=isinstance(module, Conv1D),
    ).train(module.training)


def _with_zeros(tensor: Tensor, slot: Slot, target: Slot) -> Tensor:
    pieces = tensor.split(slot.sections, slot.axis)
    ends = [(0, 0)] * (tensor.dim() - 1 - slot.axis)
    return torch.cat(
        [
            functional.pad(piece, [*sum(ends, ()), 0, wide - own])
            for piece, own, wide in zip(pieces, slot.sections, target.sections, strict=True)
        ],
        slot.axis,
    )
