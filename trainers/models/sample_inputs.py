"""Make up inputs for a model, on which what is guessed of it or made from it is checked."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from sharetune.spaces.errors import ModelError

Inputs = dict[str, Tensor]
"""Tensors by the names of the model's arguments."""

BATCH_SHAPES = ((2, 8), (3, 5))
"""``(batch size, tokens)`` of the two batches: different, so that fixed axes show."""

EXTRA_DECODER_TOKENS = 3
"""Tokens that a decoder's input is longer than the encoder's, so that a mix-up shows."""

CHARACTERS = 128
"""Ids for a model without a vocabulary, which reads characters, such as CANINE."""

SAMPLES_A_SECOND = 16_000
"""Length of a waveform: one second at the usual 16 kHz."""

POSITIONS_ATTRIBUTE = "max_source_positions"
"""The attribute for Whisper's number of encoder positions."""


def samples(model: PreTrainedModel) -> list[Inputs]:
    """Return two batches of different size and, for text, length; the same at every call.

    Raises :class:`ModelError` for a model whose main input is of an unknown kind.
    """
    make = MAIN_INPUTS.get(model.main_input_name)
    if make is None:
        raise ModelError(
            f"no sample inputs are known for {type(model).__name__}, "
            f"which reads {model.main_input_name!r}",
            f"models of {', '.join(MAIN_INPUTS)} can be exported",
        )
    return [make(model, batch, length) for batch, length in BATCH_SHAPES]


def fitting_sample(model: PreTrainedModel) -> Inputs:
    """Return the first batch on the model's device, its floating-point numbers in its dtype.

    Raises :class:`ModelError` as :func:`samples`.
    """
    placed = {name: value.to(model.device) for name, value in samples(model)[0].items()}
    return {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in placed.items()}


def _text(model: PreTrainedModel, batch: int, length: int) -> Inputs:
    """Return token ids and masks, the last row padded, and a decoder's inputs.

    A decoder that writes text gets ids of its own, another one the encoder's.
    """
    config = model.config.get_text_config()
    padded = getattr(config, "pad_token_id", None) is not None or model.can_generate()
    ids = _tokens(model, batch if padded else 1, length)
    mask = torch.ones_like(ids)
    if len(ids) > 1 and not model.config.is_encoder_decoder:
        mask[-1, length // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        own = (
            _tokens(model, len(ids), length + EXTRA_DECODER_TOKENS) if model.can_generate() else ids
        )
        return inputs | {"decoder_input_ids": own}
    types = getattr(config, "type_vocab_size", 0) or 0
    inputs |= {"token_type_ids": (ids % 2) * mask} if types > 1 else {}
    if "pixel_values" in _arguments(model) and _needs_pictures(model.config):
        inputs |= _images(model, len(ids), length)
    return {name: value for name, value in inputs.items() if name in _arguments(model)}


def _needs_pictures(config: PreTrainedConfig) -> bool:
    """Return whether a model reads a picture with each text, not only where a token stands for one.

    CLIP does, LLaVA does not.
    """
    stands_in = any(hasattr(config, f"image_token_{end}") for end in ("id", "index"))
    return hasattr(config, "vision_config") and not stands_in


def _arguments(model: PreTrainedModel) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _tokens(model: PreTrainedModel, batch: int, length: int) -> Tensor:
    """Return token ids that end in the end-of-sequence token, if there is one."""
    if not {"input_ids", "decoder_input_ids"} & _arguments(model):
        raise ModelError(
            f"no sample inputs are known for {type(model).__name__}, which reads no text",
            f"models of {', '.join(MAIN_INPUTS)} can be exported",
        )
    config = model.config.get_text_config()
    words = getattr(config, "vocab_size", None) or CHARACTERS
    ids = torch.randint(0, words, (batch, length), generator=_generator())
    end = getattr(config, "eos_token_id", None)
    for special in (getattr(config, "pad_token_id", None), end):
        ids[ids == (-1 if not isinstance(special, int) else special)] = words // 2
    if isinstance(end, int) and end < words:
        ids[:, -1] = end
    return ids


def _images(model: PreTrainedModel, batch: int, _: int) -> Inputs:
    height, width, channels = picture_size(model.config)
    return {"pixel_values": torch.randn(batch, channels, height, width, generator=_generator())}


def picture_size(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Return the height, the width and the channels of the pictures that a model reads.

    Raises :class:`ModelError` if the configuration, or its part for vision, does not say.
    """
    config = getattr(config, "vision_config", config)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    if size is None or channels is None:
        raise ModelError(
            f"the size of the pictures that a {config.model_type} model reads is not known",
            "use a model whose configuration has image_size and num_channels",
        )
    height, width = (size, size) if isinstance(size, int) else size
    return height, width, channels


def _waveforms(_: PreTrainedModel, batch: int, __: int) -> Inputs:
    return {"input_values": torch.randn(batch, SAMPLES_A_SECOND, generator=_generator())}


def _spectrograms(model: PreTrainedModel, batch: int, length: int) -> Inputs:
    """Return spectrograms of the length that Whisper reads, and token ids for its decoder.

    Whisper's encoder halves the time, so there are two frames a position.
    """
    config = model.config
    bins, frames = getattr(config, "num_mel_bins", None), getattr(config, POSITIONS_ATTRIBUTE, None)
    if bins is None or frames is None or not model.can_generate():
        raise ModelError(
            f"the size of the spectrograms that {type(model).__name__} reads is not known",
            "of models of input_features, Whisper's for conditional generation can be exported",
        )
    features = torch.randn(batch, bins, 2 * frames, generator=_generator())
    return {"input_features": features, "decoder_input_ids": _tokens(model, batch, length)}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


MAIN_INPUTS: dict[str, Callable[[PreTrainedModel, int, int], Inputs]] = {
    "input_ids": _text,
    "pixel_values": _images,
    "input_values": _waveforms,
    "input_features": _spectrograms,
}
"""The function that makes a batch, by the name of the model's main input."""
