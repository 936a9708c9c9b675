"""Write an encoder with a decoder for ONNX as two files with a KV cache, and generate with them.

Files, inputs and outputs have the names that Optimum reads: ``encoder_model.onnx`` takes the
model's own inputs and returns ``last_hidden_state``; ``decoder_model_merged.onnx`` is one step and
takes ``input_ids``, ``encoder_attention_mask`` where the model reads it, ``encoder_hidden_states``,
``use_cache_branch`` (one truth value) and, for each layer that runs,
``past_key_values.N.decoder.key`` and ``.value``, and ``.encoder.key`` and ``.value``: of the
decoder's own past tokens and of the encoder's. Where ``use_cache_branch`` is false, as in the first
step, these four are not read, and the encoder's are computed from its states.

Weights that both files read lie once in a file that both refer to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from sharetune.trainers.exports.base import Uses
from sharetune.trainers.exports.onnx_cache import (
    PAST,
    PAST_TOKENS,
    PRESENT,
    Step,
    empty_cache,
    of_layers,
)
from sharetune.trainers.exports.onnx_graph import add_cache_branch, save_together
from sharetune.trainers.exports.onnx_tracing import Graph, free_axes, traced
from sharetune.trainers.models.sample_inputs import Inputs, samples

ENCODER, DECODER = "encoder_model.onnx", "decoder_model_merged.onnx"
"""The names of the files."""

OWN_IDS = "decoder_input_ids"
"""The model's name for the decoder's tokens."""

MASK, STATES, FLAG = "encoder_attention_mask", "encoder_hidden_states", "use_cache_branch"
"""Inputs of the decoder's file."""

SIDES = ("decoder", "encoder")
"""Whose keys and values a layer's cache holds."""

AXES = {
    "input_ids": {0: "batch_size", 1: "decoder_sequence_length"},
    MASK: {0: "batch_size", 1: "encoder_sequence_length"},
    STATES: {0: "batch_size", 1: "encoder_sequence_length"},
}
"""The names of inputs' free axes, as Optimum has them."""

PAST_AXES = {0: "batch_size", 2: "past_decoder_sequence_length"}
"""The names of the free axes of the decoder's own keys and values."""


def has_encoder_steps(model: PreTrainedModel) -> bool:
    """Return whether `model` writes text by a decoder with a cache, from what an encoder states."""
    if not (model.can_generate() and model.config.is_encoder_decoder):
        return False
    inputs = samples(model)[0]
    if OWN_IDS not in inputs or set(inputs) - {OWN_IDS, "attention_mask", model.main_input_name}:
        return False
    cache = _cache(model, inputs, encoded(model, inputs))
    return isinstance(cache, EncoderDecoderCache) and all(
        isinstance(layer, DynamicLayer) and layer.keys is not None and layer.keys.dim() == 4
        for side in (cache.self_attention_cache, cache.cross_attention_cache)
        for layer in side.layers
    )


def encoded(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """Return the encoder's states of `inputs`: (batch, encoder tokens, width)."""
    with torch.no_grad():
        states: Tensor = model.get_encoder()(**_without_own(inputs)).last_hidden_state
    return states


def _without_own(inputs: Inputs) -> Inputs:
    return {name: tensor for name, tensor in inputs.items() if name != OWN_IDS}


def _cache(model: PreTrainedModel, inputs: Inputs, states: Tensor) -> Any:
    """Return the cache after the first of the decoder's tokens."""
    begun = {"decoder_input_ids": inputs[OWN_IDS][:, :PAST_TOKENS]}
    masks = {name: inputs[name] for name in ("attention_mask",) if name in inputs}
    with torch.no_grad():
        found = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            use_cache=True,
            **begun,
            **masks,
        )
    return getattr(found, "past_key_values", None)


class EncoderPass(nn.Module):
    """A model's encoder as a function of the unnamed tensors of `names`."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.encoder = model.get_encoder()
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the encoder's states."""
        given = dict(zip(self.names, tensors, strict=True))
        states: Tensor = self.encoder(**given).last_hidden_state
        return states


class DecoderStep(Step):
    """A model's decoder as a function of the unnamed tensors of a step, in the order of `names`."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the logits, then each layer's keys and values: the decoder's, the encoder's."""
        told, own_cache = self.given(tensors)
        cache = EncoderDecoderCache(own_cache, DynamicCache())
        masks = {"attention_mask": told[MASK]} if MASK in told else {}
        logits: Tensor = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=told[STATES]),
            decoder_input_ids=told["input_ids"],
            past_key_values=cache,
            use_cache=True,
            **masks,
        ).logits
        own, other = of_layers(cache.self_attention_cache), of_layers(cache.cross_attention_cache)
        layers = range(0, len(own), 2)
        return logits, *(t for i in layers for t in (*own[i : i + 2], *other[i : i + 2]))


def write_encoder_decoder(model: PreTrainedModel, folder: Path) -> None:
    """Write both files into `folder`. Raises :class:`ModelError` if they cannot be traced."""
    inputs = samples(model)[0]
    states = encoded(model, inputs)
    own = _without_own(inputs)
    axes = tuple(free_axes(name, tensor) for name, tensor in own.items())
    encoder = traced(model, Graph(EncoderPass, own, axes, ["last_hidden_state"]))
    decoder = traced(model, _step(model, inputs, states))
    add_cache_branch(decoder.model, FLAG)
    save_together({ENCODER: encoder.model, DECODER: decoder.model}, folder)


def _step(model: PreTrainedModel, inputs: Inputs, states: Tensor) -> Graph:
    """Return the decoder's step, whose cache holds the first of its tokens."""
    found = {"input_ids": inputs[OWN_IDS][:, PAST_TOKENS:]}
    found |= {MASK: inputs["attention_mask"]} if "attention_mask" in inputs else {}
    found[STATES] = states
    layers = _cache(model, inputs, states).self_attention_cache.layers
    for index, layer in enumerate(layers):
        found |= {f"{PAST}{index}.decoder.key": layer.keys}
        found |= {f"{PAST}{index}.decoder.value": layer.values}
    outputs = [
        f"{PRESENT}{index}.{side}.{kind}"
        for index in range(len(layers))
        for side in SIDES
        for kind in ("key", "value")
    ]
    axes = tuple(AXES.get(name, PAST_AXES) for name in found)
    return Graph(DecoderStep, found, axes, ["logits", *outputs])


@dataclass(frozen=True)
class EncoderDecoder:
    """Sessions of onnxruntime that run both files."""

    encoder: Any
    decoder: Any

    def answer(self, inputs: Inputs) -> Tensor:
        """Return the logits of the decoder's tokens: (batch, tokens, vocabulary)."""
        return torch.from_numpy(self.run(inputs[OWN_IDS], self.encode(inputs))[0])

    def encode(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """Return the decoder's inputs that stay the same: the encoder's states and mask."""
        own = {name: tensor.numpy() for name, tensor in _without_own(inputs).items()}
        found = {STATES: self.encoder.run(None, own)[0], MASK: own.get("attention_mask")}
        names = {node.name for node in self.decoder.get_inputs()}
        return {name: array for name, array in found.items() if name in names}

    def run(
        self,
        ids: Tensor,
        encoded: Mapping[str, np.ndarray],
        cache: Mapping[str, np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Return the logits, and the cache after `ids`; a `cache` of None is that of no token."""
        flag = np.array([cache is not None])
        if cache is None:
            cache = empty_cache(self.decoder, len(ids))
        given = {"input_ids": ids.numpy(), FLAG: flag, **encoded, **cache}
        return list(self.decoder.run(None, given))

    def greedy(self, inputs: Inputs, count: int) -> list[int]:
        """Return the `count` most likely tokens of one example, one after the other, by a cache.

        `inputs` hold the token that starts a text, under its name for the decoder.
        """
        steps = self.steps(inputs)
        return [int(next(steps)) for _ in range(count)]

    def steps(self, inputs: Inputs) -> Iterator[Tensor]:
        """Yield the most likely next token of each row, again and again: (batch, 1)."""
        encoded, ids, cache = self.encode(inputs), inputs[OWN_IDS], None
        while True:
            logits, *present = self.run(ids, encoded, cache)
            ids = torch.from_numpy(logits[:, -1:].argmax(-1))
            yield ids
            cache = self.past(present)

    def uses(self, inputs: Inputs) -> Uses:
        """Return the uses of the files on one example."""
        inputs = {name: tensor.cpu() for name, tensor in inputs.items()}
        if any(node.name == "attention_mask" for node in self.encoder.get_inputs()):
            inputs = {"attention_mask": torch.ones_like(inputs["input_ids"])} | inputs
        start, encoded = inputs[OWN_IDS][:, :1], self.encode(inputs)
        past = self.past(self.run(start, encoded)[1:])
        return {
            "prefill": lambda: self.run(start, self.encode(inputs)),
            "decode": partial(self.run, start, encoded, past),
        }

    def past(self, present: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the inputs of the next step from the outputs after the logits."""
        names = (node.name.replace(PRESENT, PAST) for node in self.decoder.get_outputs()[1:])
        return dict(zip(names, present, strict=True))
