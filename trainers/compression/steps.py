"""Make a trained model smaller: narrower layers, zeros, 8-bit numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ModelError
from sharetune.trainers.compression.importance import masked_logits, unit_importance
from sharetune.trainers.compression.pruning import units_to_keep
from sharetune.trainers.compression.quantisation import quantise_
from sharetune.trainers.models.narrowing import keep_units_
from sharetune.trainers.models.shared_model import SharedModel

__all__ = ["finish_", "prune_least_important_", "quantise_", "reshape_"]


def reshape_(model: PreTrainedModel, compression: Compression) -> PreTrainedModel:
    """Give the shared `model`, in place, the shapes that compressed weights have.

    Which units are removed is arbitrary: for counting, and before loading a file. Raises
    :class:`PlanError` if a part cannot be pruned.
    """
    if compression.removes_units:
        keep_units_(model, units_to_keep(model, compression))
    return finish_(model, compression)


def prune_least_important_(
    model: PreTrainedModel, compression: Compression, batches: Iterable[Mapping[str, Tensor]]
) -> None:
    """Remove, in place, the heads and neurons that matter least to the loss on `batches`.

    Raises :class:`ModelError` if the outputs then differ from those of the full model with these
    units' outputs set to zero.
    """
    batches = list(batches)
    kept = units_to_keep(model, compression, unit_importance(model, batches))
    inputs = {key: value for key, value in batches[0].items() if key != "labels"}
    wanted = masked_logits(model, kept, inputs)
    keep_units_(model, kept)
    with torch.no_grad():
        found = model.eval()(**inputs).logits
    allowed = torch.finfo(wanted.dtype).eps ** 0.5 * wanted.abs().max()
    if found.shape != wanted.shape or not (found - wanted).abs().max() <= allowed:
        raise ModelError(
            f"{type(model).__name__} computes something else with fewer heads or neurons",
            "leave heads, or neurons, out of compression",
        )


def finish_(model: PreTrainedModel, compression: Compression) -> PreTrainedModel:
    """Quantise the shared `model` in place, after all training, and record the compression.

    The record is saved with the plan.
    """
    if compression.quantize is not None:
        quantise_(model, dynamic=compression.quantize == "dynamic-int8")
    assert isinstance(model, SharedModel), "compression is stored with the plan"
    model.sharing = replace(model.sharing, compression=compression)
    return model
