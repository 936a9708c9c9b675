"""Removes the heads and neurons that matter least to the loss."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.compression import Compression, RemoveUnits
from sharetune.spaces.errors import ModelError
from sharetune.trainers.compression.base import COMPRESSORS, Batches, Compressor
from sharetune.trainers.compression.importance import masked_logits, unit_importance
from sharetune.trainers.compression.pruning import units_to_keep
from sharetune.trainers.models.narrowing import keep_units_


@COMPRESSORS.register("units")
class UnitPruning(Compressor):
    """Removes the least important units; where only shapes matter, any, of the same number."""

    def reshape_(self, model: PreTrainedModel) -> None:
        keep_units_(model, units_to_keep(model, self.method))

    def apply_(self, model: PreTrainedModel, batches: Batches) -> None:
        prune_least_important_(model, self.method, batches)


def prune_least_important_(
    model: PreTrainedModel,
    fractions: Compression | RemoveUnits,
    batches: Iterable[Mapping[str, Tensor]],
) -> None:
    """Removes, in place, the heads and neurons that matter least to the loss on `batches`.

    Raises :class:`ModelError` if the model then computes anything but what it does with these
    units' output set to zero.
    """
    batches = list(batches)
    kept = units_to_keep(model, fractions, unit_importance(model, batches))
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
