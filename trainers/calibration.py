"""What the layers' units do on real inputs: recorded once, used to choose and match units."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainers.structure import Stack, find_stacks

Activations = Mapping[tuple[str, int, str], Tensor]
"""``(stack, layer, path of o or fc_out) -> (tokens, columns)``: what enters that matrix."""

MOST_TOKENS = 2048


def record_activations(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], most_tokens: int = MOST_TOKENS
) -> Activations:
    """Runs the unshared `model` over `batches` of inputs and records what its units answer.

    At most `most_tokens` tokens are kept, padding left out where an ``attention_mask`` tells.
    """
    model.eval()
    kept: dict[tuple[str, int, str], list[Tensor]] = defaultdict(list)
    tokens = 0
    with torch.no_grad(), _hooks(model) as seen:
        for batch in batches:
            seen.clear()
            model(**batch)
            for key, values in seen.items():
                kept[key].append(_without_padding(values, batch.get("attention_mask")))
            tokens += max(len(parts[-1]) for parts in kept.values())
            if tokens >= most_tokens:
                break
    return {key: torch.cat(parts)[:most_tokens] for key, parts in kept.items()}


@contextmanager
def _hooks(model: PreTrainedModel) -> Iterator[dict[tuple[str, int, str], Tensor]]:
    """The inputs of all column matrices during the latest forward pass."""
    seen: dict[tuple[str, int, str], Tensor] = {}
    handles = []
    for key, module in _column_matrices(find_stacks(model).values()):

        def remember(_: nn.Module, inputs: tuple[Any, ...], key: Any = key) -> None:
            seen[key] = inputs[0].detach()

        handles.append(module.register_forward_pre_hook(remember))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _column_matrices(
    stacks: Iterable[Stack],
) -> Iterator[tuple[tuple[str, int, str], nn.Module]]:
    for stack in stacks:
        for index, layer in enumerate(stack.layers):
            for slot in stack.slots:
                if slot.axis == 1:
                    yield (stack.name, index, slot.path), layer.get_submodule(slot.path)


def _without_padding(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None and mask.shape == values.shape[:-1]:
        return values[mask.bool()].float()
    return values.flatten(0, -2).float()
