"""Write a decoder for ONNX as one step with a KV cache, and generate with it in onnxruntime.

Inputs and outputs have the names that Optimum and onnxruntime-genai read: ``input_ids``,
``attention_mask`` and, where the model takes them, ``position_ids``; for each layer that runs
``past_key_values.N.key`` and ``.value`` (batch x heads x past tokens x head size), which may hold
no token; and ``logits``, ``present.N.key`` and ``present.N.value``.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from sharetune.trainers.exports.base import Answer, Uses
from sharetune.trainers.models.sample_inputs import Inputs, samples

PAST = "past_key_values."
"""The start of the names of inputs with keys and values."""

PRESENT = "present."
"""The start of the names of outputs with keys and values."""

POSITIONS = "position_ids"
"""The name of the input with each token's position."""

PAST_TOKENS = 3
"""Tokens of the sample that are in the cache when a model is traced."""

AXES = {
    "input_ids": ("batch_size", "sequence_length"),
    POSITIONS: ("batch_size", "sequence_length"),
    "attention_mask": ("batch_size", "total_sequence_length"),
}
"""The names of inputs' axes, as Optimum has them."""

CACHE_AXES = {0: "batch_size", 2: "past_sequence_length"}
"""The names of the free axes of keys and values."""


def has_steps(model: PreTrainedModel) -> bool:
    """Return whether `model` writes text by steps with a cache of keys and values alone."""
    if not model.can_generate() or model.config.is_encoder_decoder:
        return False
    if set(samples(model)[0]) != {"input_ids", "attention_mask"}:
        return False
    cache = _cache(model, samples(model)[0])
    return isinstance(cache, DynamicCache) and all(
        isinstance(layer, DynamicLayer) for layer in cache.layers
    )


def _cache(model: PreTrainedModel, inputs: Inputs) -> Any:
    """Return the cache after the first tokens of `inputs`."""
    begun = inputs["input_ids"][:, :PAST_TOKENS].to(model.device)
    with torch.no_grad():
        return getattr(model(input_ids=begun, use_cache=True), "past_key_values", None)


def step_inputs(model: PreTrainedModel) -> Inputs:
    """Return the inputs of a step whose cache holds the first tokens of the sample."""
    inputs = samples(model)[0]
    ids = inputs["input_ids"]
    found = {"input_ids": ids[:, PAST_TOKENS:], "attention_mask": torch.ones_like(ids)}
    if takes_positions(model):
        found[POSITIONS] = positions(ids)[:, PAST_TOKENS:]
    for index, layer in enumerate(_cache(model, inputs).layers):
        found |= {f"{PAST}{index}.key": layer.keys, f"{PAST}{index}.value": layer.values}
    return found


def takes_positions(model: PreTrainedModel) -> bool:
    """Return whether the model takes each token's position."""
    return POSITIONS in inspect.signature(model.forward).parameters


def positions(ids: Tensor, past: int = 0) -> Tensor:
    """Return each token's position after `past` others, of the shape of `ids`."""
    return torch.arange(past, past + ids.shape[1]).expand_as(ids)


def with_positions(model: PreTrainedModel) -> Answer:
    """Return the function that gives `model` the positions that :class:`Steps` does."""

    def answer(inputs: Inputs) -> Tensor:
        told = {POSITIONS: positions(inputs["input_ids"])} if takes_positions(model) else {}
        with torch.no_grad():
            logits: Tensor = model(**inputs, **told).logits
        return logits

    return answer


def step_axes(name: str) -> dict[int, str]:
    """Return the names of the free axes of an input."""
    return dict(enumerate(AXES[name])) if name in AXES else CACHE_AXES


def step_outputs(names: Sequence[str]) -> list[str]:
    """Return the names of the outputs of a step with these inputs."""
    return ["logits", *(PRESENT + n.removeprefix(PAST) for n in names if n.startswith(PAST))]


class Step(nn.Module):
    """A decoder as a function of the unnamed tensors of a step, in the order of `names`."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = [name for name in names if not name.startswith(PAST)]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the logits, and the keys and values of past and new tokens of each layer."""
        told, cache = self.given(tensors)
        logits: Tensor = self.model(**told, past_key_values=cache, use_cache=True).logits
        return logits, *of_layers(cache)

    def given(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], DynamicCache]:
        """Return the inputs by name, and a cache of the past keys and values after them."""
        count = len(self.names)
        return dict(zip(self.names, tensors[:count], strict=True)), filled(tensors[count:])


def filled(past: Sequence[Tensor]) -> DynamicCache:
    """Return a cache of these keys and values, by turns, of each layer."""
    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()  # filled by hand: its own way joins an empty tensor in front
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def of_layers(cache: DynamicCache) -> list[Tensor]:
    """Return the keys and values, by turns, of each layer of a cache."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


@dataclass(frozen=True)
class Steps:
    """A session, of onnxruntime or like it, that runs a file of steps."""

    session: Any

    def answer(self, inputs: Inputs) -> Tensor:
        """Return the logits of all tokens: (batch, tokens, vocabulary)."""
        empty = empty_cache(self.session, len(inputs["input_ids"]))
        return torch.from_numpy(self.run(inputs["input_ids"], inputs["attention_mask"], empty)[0])

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """Return the `count` most likely next tokens, one after the other, by a cache."""
        steps = self.steps(torch.tensor([prompt]))
        return [int(next(steps)) for _ in range(count)]

    def steps(self, ids: Tensor) -> Iterator[Tensor]:
        """Yield the most likely next token of each row, again and again: (batch, 1)."""
        cache, past = empty_cache(self.session, len(ids)), 0
        while True:
            past += ids.shape[1]
            logits, *present = self.run(ids, torch.ones(len(ids), past, dtype=torch.int64), cache)
            ids = torch.from_numpy(logits[:, -1:].argmax(-1))
            yield ids
            cache = dict(zip(cache, present, strict=True))

    def uses(self, inputs: Inputs) -> Uses:
        """Return the uses of the file on one example."""
        ids, empty = inputs["input_ids"].cpu(), empty_cache(self.session, 1)
        mask = torch.ones(1, ids.shape[1] + 1, dtype=torch.int64)
        prefill = partial(self.run, ids, mask[:, 1:], empty)
        past = dict(zip(empty, prefill()[1:], strict=True))
        return {"prefill": prefill, "decode": partial(self.run, ids[:, -1:], mask, past)}

    def run(self, ids: Tensor, mask: Tensor, cache: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the logits, and the keys and values of each layer in turn."""
        given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()} | cache
        if any(node.name == POSITIONS for node in self.session.get_inputs()):
            given[POSITIONS] = positions(ids, mask.shape[1] - ids.shape[1]).numpy()
        return list(self.session.run(None, given))


def empty_cache(session: Any, batch: int) -> dict[str, np.ndarray]:
    """Return keys and values of no token, by the names of a session's inputs."""
    return {
        node.name: np.zeros((batch, node.shape[1], 0, node.shape[3]), _dtype(node))
        for node in session.get_inputs()
        if node.name.startswith(PAST)
    }


def _dtype(node: Any) -> Any:
    return np.float16 if "float16" in node.type else np.float32
