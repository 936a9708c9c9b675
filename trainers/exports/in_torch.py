"""Compare and time exports that PyTorch runs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from sharetune.trainers.exports.base import Uses, Written, answering
from sharetune.trainers.exports.onnx_cache import filled, has_steps, of_layers
from sharetune.trainers.exports.onnx_encoder_decoder import OWN_IDS, has_encoder_steps
from sharetune.trainers.models.sample_inputs import Inputs

TOLERANCE = 1e-5
"""Largest difference of logits that are computed in the same way."""


def in_torch(load: Callable[[Path], PreTrainedModel], lines: str, note: str = "") -> Written:
    """Return how a folder is compared and timed that `load` loads, as the code `lines` does."""
    return Written(
        reload=lambda path: answering(load(path)),
        load=lines,
        tolerance=TOLERANCE,
        timed=lambda path, inputs, threads: uses_of(load(path), inputs),
        note=note,
    )


def uses_of(model: PreTrainedModel, inputs: Inputs) -> Uses:
    """Return the uses of `model` on one example, on torch's own threads."""
    if has_steps(model):
        return _by_steps(model, inputs)
    if has_encoder_steps(model):
        return _by_encoder(model, inputs)
    return {"pass": partial(model, **inputs)}


def _by_steps(model: PreTrainedModel, inputs: Inputs) -> Uses:
    prefill = partial(model, **inputs, use_cache=True)
    with torch.no_grad():
        past = of_layers(prefill().past_key_values)
    token = inputs["input_ids"][:, -1:]

    def decode() -> object:
        return model(input_ids=token, past_key_values=filled(past), use_cache=True)

    return {"prefill": prefill, "decode": decode}


def _by_encoder(model: PreTrainedModel, inputs: Inputs) -> Uses:
    start = {OWN_IDS: inputs[OWN_IDS][:, :1], "use_cache": True}
    prefill = partial(model, **inputs | start)
    with torch.no_grad():
        found = prefill()
    states = BaseModelOutput(last_hidden_state=found.encoder_last_hidden_state)
    own, other = (
        of_layers(side)
        for side in (
            found.past_key_values.self_attention_cache,
            found.past_key_values.cross_attention_cache,
        )
    )

    def decode() -> object:
        cache = EncoderDecoderCache(filled(own), filled(other))
        return model(encoder_outputs=states, past_key_values=cache, **start)

    return {"prefill": prefill, "decode": decode}
