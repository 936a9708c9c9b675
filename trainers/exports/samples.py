"""Made-up inputs for a model, on which two forms of it are compared."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spaces.errors import ModelError

Inputs = dict[str, Tensor]
SIZES = ((2, 8), (3, 5))
SAMPLES_A_SECOND = 16_000


def samples(model: PreTrainedModel) -> list[Inputs]:
    """Two batches of different size and, for text, length; the same ones every time.

    Raises :class:`ModelError` for a model that reads neither text, images nor waveforms.
    """
    if model.main_input_name == "input_ids":
        return [_text(model, batch, length) for batch, length in SIZES]
    if model.main_input_name == "pixel_values":
        return [_images(model, batch) for batch, _ in SIZES]
    if model.main_input_name == "input_values":
        return [_waveforms(batch) for batch, _ in SIZES]
    raise ModelError(
        f"no sample inputs are known for {type(model).__name__}, "
        f"which reads {model.main_input_name!r}",
        "models of input_ids, pixel_values or input_values can be exported",
    )


def _text(model: PreTrainedModel, batch: int, length: int) -> Inputs:
    """Token ids that end in the end-of-sequence token if there is one; the last row padded."""
    config = model.config.get_text_config()
    batch = 1 if config.pad_token_id is None else batch
    ids = torch.randint(0, config.vocab_size, (batch, length), generator=_generator())
    for special in (config.pad_token_id, config.eos_token_id):
        ids[ids == (-1 if special is None else special)] = config.vocab_size // 2
    if isinstance(config.eos_token_id, int):
        ids[:, -1] = config.eos_token_id
    mask = torch.ones_like(ids)
    if batch > 1 and not model.config.is_encoder_decoder:
        mask[-1, length // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        return inputs | {"decoder_input_ids": ids}
    types = getattr(config, "type_vocab_size", 0) or 0
    return inputs | ({"token_type_ids": (ids % 2) * mask} if types > 1 else {})


def _images(model: PreTrainedModel, batch: int) -> Inputs:
    size, channels = model.config.image_size, model.config.num_channels
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": torch.randn(batch, channels, height, width, generator=_generator())}


def _waveforms(batch: int) -> Inputs:
    return {"input_values": torch.randn(batch, SAMPLES_A_SECOND, generator=_generator())}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
