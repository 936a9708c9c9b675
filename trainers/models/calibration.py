"""Record the inputs of layers' matrices on real data, and what each expert of a mixture gives; and
compare layers by their outputs."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sharetune.trainers.models.compensation import Key, Moments, Recorded
from sharetune.trainers.models.mixtures import expert_norms
from sharetune.trainers.models.structure import Slot, Stack, find_stacks

Activations = Mapping[Key, Tensor]
"""``(stack, layer, path of a matrix) -> (tokens, columns)``, the inputs of that matrix; at the path
of a mixture (tokens, experts), the norm of what each expert gives to a token."""

MAX_TOKENS = 2048
"""Tokens to record unless asked otherwise; BERT-base's inputs then take 0.5 GB in float32."""

MOMENT_TOKENS = 8192
"""Tokens whose second moments are enough for a regression on some 1,500 neurons: with 2,048 a
narrowed SmolLM2 diverged a quarter more from the unshared one on other text than with 12,288."""


def record_activations(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    max_tokens: int = MAX_TOKENS,
    moment_tokens: int = 0,
) -> Recorded:
    """Run the unshared `model` over `batches` and record the inputs of its matrices, and the norm
    of what each expert of its mixtures gives.

    Keeps at most `max_tokens` tokens, without padding where there is an ``attention_mask``.
    Matrices that read the same input, such as q, k and v, refer to the same tensor. Of matrices
    that sum up units, second moments over `moment_tokens` or more are kept where they are not
    larger than the inputs.
    """
    model.eval()
    kept: dict[Key, list[Tensor]] = defaultdict(list)
    readers: dict[Key, Key] = {}
    moments: dict[Key, Moments] = {}
    summing = _summing(model) if moment_tokens else frozenset()
    tokens = 0
    with torch.no_grad(), _recorded_inputs(model) as seen:
        for batch in batches:
            seen.clear()
            model(**batch, **_few_logits(model))
            first = {id(values): key for key, values in reversed(seen.items())}
            for key, values in seen.items():
                readers[key] = first[id(values)]
            rows = 0
            for key in dict.fromkeys(readers.values()):
                plain = _without_padding(seen[key], batch.get("attention_mask"))
                rows = max(rows, len(plain))
                if tokens < max_tokens:
                    kept[key].append(plain)
                if key in summing and plain.shape[1] <= max_tokens:
                    _add(moments, key, plain)
            tokens += rows
            if tokens >= max(max_tokens, moment_tokens):
                break
    whole = {key: torch.cat(kept.pop(key))[:max_tokens] for key in [*kept]}  # each part freed
    return Recorded({key: whole[first] for key, first in readers.items()}, moments)


def _add(moments: dict[Key, Moments], key: Key, inputs: Tensor) -> None:
    if key in moments:
        moments[key].add(inputs)
    else:
        moments[key] = Moments.of(inputs)


def _summing(model: PreTrainedModel) -> frozenset[Key]:
    """Return the matrices that sum up units: the outputs of attentions and FFNs."""
    return frozenset(key for key, slot, _ in _matrices(find_stacks(model).values()) if slot.axis)


def _few_logits(model: PreTrainedModel) -> dict[str, int]:
    """Return keywords that keep a model from computing logits for each token of a vocabulary."""
    can = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if can else {}


@contextmanager
def _recorded_inputs(model: PreTrainedModel) -> Iterator[dict[Key, Tensor]]:
    """Yield a dictionary with the inputs of all matrices in the latest forward pass, and what the
    experts of mixtures gave."""
    seen: dict[Key, Tensor] = {}
    handles = []
    for key, _, module in _matrices(find_stacks(model).values()):

        def remember(_: nn.Module, inputs: tuple[Any, ...], key: Any = key) -> None:
            seen[key] = inputs[0]

        handles.append(module.register_forward_pre_hook(remember))
    for key, experts, count in _mixtures(find_stacks(model).values()):
        weigh = _weighing(seen, key, count)
        handles.append(experts.register_forward_hook(weigh, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _weighing(seen: dict[Key, Tensor], key: Key, experts: int) -> Callable[..., None]:
    """Return a hook that writes into `seen` the norm of what each expert gives to a token."""

    def weigh(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        found = expert_norms(module, (*args, *kwargs.values()), output, experts)
        if found is not None:
            seen[key] = found

    return weigh


def _matrices(stacks: Iterable[Stack]) -> Iterator[tuple[Key, Slot, nn.Module]]:
    for stack in stacks:
        for index, layer in enumerate(stack.layers):
            for slot in stack.slots:
                yield (stack.name, index, slot.path), slot, layer.get_submodule(slot.path)


def _mixtures(stacks: Iterable[Stack]) -> Iterator[tuple[Key, nn.Module, int]]:
    """Yield, for each mixture whose experts are one module, this and their number."""
    for stack in stacks:
        for index, found in enumerate(stack.mixtures):
            for mixture in found:
                holders = {name.rpartition(".")[0] for name in mixture.own}
                if len(holders) == 1:
                    experts = stack.layers[index].get_submodule(holders.pop())
                    yield (stack.name, index, mixture.path), experts, mixture.experts


def _without_padding(values: Tensor, mask: Tensor | None) -> Tensor:
    flat = mask is not None and values.dim() == 2 and len(values) == mask.numel()
    if mask is not None and (flat or mask.shape == values.shape[:-1]):
        return values[mask.bool().flatten() if flat else mask.bool()].float()
    return values.flatten(0, -2).float()


def layer_similarity(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], max_tokens: int = MAX_TOKENS
) -> dict[str, tuple[tuple[float, ...], ...]]:
    """Return, by stack, the similarity of the outputs of each two layers on `batches`.

    Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414), 0..1.
    """
    model.eval()
    stacks = find_stacks(model).values()
    outputs: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    with torch.no_grad(), ExitStack() as hooks:
        for stack in stacks:
            for index, layer in enumerate(stack.layers):
                keep = outputs[stack.name, index].append
                handle = layer.register_forward_hook(_keep_output(keep))
                hooks.callback(handle.remove)
        for batch in batches:
            model(**batch)
    return {
        stack.name: similarity_matrix(
            [torch.cat(outputs[stack.name, i])[:max_tokens] for i in range(len(stack.layers))]
        )
        for stack in stacks
    }


def similarity_matrix(outputs: Sequence[Tensor]) -> tuple[tuple[float, ...], ...]:
    """Return the linear CKA of each two of `outputs`, each (examples, features)."""
    centred = [output - output.mean(0) for output in outputs]
    sizes = [(x.T @ x).norm() for x in centred]
    return tuple(
        tuple(
            float((y.T @ x).norm() ** 2 / (size_x * size_y))
            for y, size_y in zip(centred, sizes, strict=True)
        )
        for x, size_x in zip(centred, sizes, strict=True)
    )


def _keep_output(keep: Callable[[Tensor], None]) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        keep(hidden.detach().flatten(0, -2).float())

    return hook
