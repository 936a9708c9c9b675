"""Estimate each head's and neuron's importance for the loss, to first order."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sharetune.trainers.models.modules import resolved
from sharetune.trainers.models.narrowing import Kept, Place
from sharetune.trainers.models.structure import Slot, attention_path, find_stacks

Change = Callable[[Place, Slot, Tensor], Tensor]
"""``(place, slot, input of the matrix) -> input to use instead``."""


def unit_importance(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]
) -> dict[Place, Tensor]:
    """Return each unit's mean over examples of ``|a . dL/da|``, a being its activation.

    This is, to first order, the change of the loss if the unit were zero (Michel et al., arXiv
    1905.10650; Molchanov et al., arXiv 1906.10771): (units) for each place. `batches` hold labels.
    All runs of a repeated layer count for the first.
    """
    totals: dict[Place, Tensor] = {
        (stack.name, index, attention_path(slot.path)): torch.zeros(slot.units)
        for stack in find_stacks(model).values()
        for index, slots in enumerate(stack.layer_slots)
        for slot in slots
    }
    seen: list[tuple[Place, Slot, Tensor]] = []

    def remember(place: Place, slot: Slot, entering: Tensor) -> Tensor:
        entering = entering if entering.requires_grad else entering.detach().requires_grad_()
        entering.retain_grad()
        seen.append((place, slot, entering))
        return entering

    model.eval()
    with _changed_inputs(model, remember), torch.enable_grad():
        for batch in batches:
            seen.clear()
            model(**batch).loss.backward()
            for place, slot, entering in seen:
                assert entering.grad is not None
                change = (entering.detach() * entering.grad).float()
                by_unit = change.unflatten(-1, (slot.units, -1)).sum(-1).flatten(1, -2).sum(1)
                totals[place] = totals[place] + by_unit.abs().sum(0).cpu()
    model.zero_grad(set_to_none=True)
    return totals


def masked_logits(model: PreTrainedModel, kept: Kept, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the logits with the outputs of all units but `kept` set to zero."""

    def mask(place: Place, slot: Slot, entering: Tensor) -> Tensor:
        if place not in kept:
            return entering
        stays = torch.zeros(slot.units, dtype=entering.dtype, device=entering.device)
        stays[kept[place].to(entering.device)] = 1
        return entering * stays.repeat_interleave(entering.shape[-1] // slot.units)

    with _changed_inputs(model.eval(), mask), torch.no_grad():
        logits: Tensor = model(**inputs).logits
    return logits


@contextmanager
def _changed_inputs(model: PreTrainedModel, change: Change) -> Iterator[None]:
    """Apply `change`, within the context, to the input of each layer's output matrices."""
    with ExitStack() as hooks:
        for stack in find_stacks(model).values():
            for index, layer in enumerate(stack.layers):
                for slot in stack.layer_slots[index]:
                    if slot.axis == 1:
                        place = stack.name, index, attention_path(slot.path)
                        hook = _hook(place, slot, change)
                        module = layer.get_submodule(slot.path)
                        if module is resolved(module):
                            hooks.callback(module.register_forward_pre_hook(hook).remove)
        yield


def _hook(place: Place, slot: Slot, change: Change) -> Callable[..., Any]:
    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return change(place, slot, inputs[0]), *inputs[1:]

    return hook
