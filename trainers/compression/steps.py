"""Make a trained model smaller: a fold over the methods that a compression asks for."""

import copy
from collections.abc import Iterable
from dataclasses import replace

from transformers import PreTrainedModel, TrainerCallback

from sharetune.spaces.compression import Compression
from sharetune.trainers.compression.base import Batches, Compressor, compressors
from sharetune.trainers.models.shared_model import SharedModel


def reshape_(model: PreTrainedModel, compression: Compression) -> PreTrainedModel:
    """Give the shared `model`, in place, the shapes that compressed weights have.

    Which units are removed is arbitrary: for counting, and before loading a file. Raises
    :class:`PlanError` if a part cannot be pruned.
    """
    for compressor in compressors(compression):
        compressor.reshape_(model)
    return _noted(model, compression)


def prune_(
    model: PreTrainedModel, compression: Compression, batches: Batches
) -> list[TrainerCallback]:
    """Apply in place the methods before the further training; return callbacks that preserve them.

    With `aware` a callback also rounds the weights in each step. `batches` tell which units matter.
    Raises :class:`ModelError` where that cannot be done.
    """
    chosen = compressors(compression)
    keepers = _apply(model, (c for c in chosen if c.method.prunes), batches)
    rounding = [c for c in chosen if c.method.quantizes] if compression.aware else []
    return [*keepers, *(compressor.rounding(model) for compressor in rounding)]


def quantised_copy(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Return a copy of the trained `model` whose matrices are stored as the method `name` does."""
    copied = copy.deepcopy(model)
    _apply(copied, compressors(Compression(quantize=name)), [])
    return copied


def finish_(model: PreTrainedModel, compression: Compression) -> PreTrainedModel:
    """Apply in place the methods after all training, such as quantising, and record every method
    in the shared `model`, for its file."""
    _apply(model, (c for c in compressors(compression) if not c.method.prunes), [])
    return _noted(model, compression)


def _apply(
    model: PreTrainedModel, chosen: Iterable[Compressor], batches: Batches
) -> list[TrainerCallback]:
    keepers = [compressor.apply_(model, batches) for compressor in chosen]
    return [keeper for keeper in keepers if keeper is not None]


def _noted(model: PreTrainedModel, compression: Compression) -> PreTrainedModel:
    assert isinstance(model, SharedModel), "compression is stored with the plan"
    model.sharing = replace(model.sharing, compression=compression)
    return model
