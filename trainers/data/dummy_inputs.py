"""Make full-length inputs for a model of any modality, to count FLOPs and measure latency."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.spaces.registry import Registry
from sharetune.trainers.models.sample_inputs import picture_size

INPUTS: Registry[Callable[[PreTrainedModel, int, int], Tensor]] = Registry("input")
"""``(model, batch size, length) -> tensor``, by the name of the model's main input."""


def full_length(model: PreTrainedModel, batch: int, length: int) -> dict[str, Tensor]:
    """Return one batch of the model's inputs, of `length` tokens or sound samples.

    Images and spectrograms are of the one size that the model reads. A decoder gets `length` tokens
    too. Raises :class:`ModelError` for a main input of an unknown kind.
    """
    name = model.main_input_name
    if name not in INPUTS:
        raise ModelError(
            f"no inputs are known for {type(model).__name__}, which reads {name!r}",
            f"models of {', '.join(INPUTS)} can be measured",
        )
    inputs = {name: INPUTS[name](model, batch, length)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = _tokens(model, batch, length)
    return inputs


@INPUTS.register("input_ids")
def _tokens(model: PreTrainedModel, batch: int, length: int) -> Tensor:
    """token ids, all of them 1"""
    return torch.ones(batch, length, dtype=torch.long)


@INPUTS.register("pixel_values")
def _images(model: PreTrainedModel, batch: int, length: int) -> Tensor:
    """black pictures of the size that the model reads"""
    height, width, channels = picture_size(model.config)
    return torch.zeros(batch, channels, height, width)


@INPUTS.register("input_values")
def _waveform(model: PreTrainedModel, batch: int, length: int) -> Tensor:
    """silence"""
    return torch.zeros(batch, length)


@INPUTS.register("input_features")
def _spectrogram(model: PreTrainedModel, batch: int, length: int) -> Tensor:
    """spectrograms of silence, as long as the model reads them"""
    return torch.zeros(batch, model.config.num_mel_bins, 2 * model.config.max_source_positions)
