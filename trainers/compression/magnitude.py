"""Set the smallest entries of the layers' matrices to zero, and keep them there."""

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from sharetune.trainers.compression.base import COMPRESSORS, Batches, Compressor
from sharetune.trainers.models.parameters import bank_parameters
from sharetune.trainers.models.structure import find_stacks


@COMPRESSORS.register("magnitude")
class MagnitudePruning(Compressor):
    """Sets the smallest entries to zero; shapes stay."""

    def apply_(self, model: PreTrainedModel, batches: Batches) -> "KeepZeros":
        return zero_smallest_(model, self.method.magnitude)


def zero_smallest_(model: PreTrainedModel, fraction: float) -> "KeepZeros":
    """Set the smallest `fraction` (0..1) of the matrix entries to zero, in place.

    Entries of all layers and banks are compared together (Han et al., arXiv 1506.02626); an entry
    of a bank counts once. Returns the callback that keeps them zero in further training.
    """
    layers = [stack.layers.parameters() for stack in find_stacks(model).values()]
    found = {id(p): p for p in [*bank_parameters(model), *(p for own in layers for p in own)]}
    matrices = [parameter for parameter in found.values() if parameter.dim() > 1]
    sizes = torch.cat([matrix.detach().abs().flatten() for matrix in matrices])
    zeros = torch.zeros(len(sizes), dtype=torch.bool, device=sizes.device)
    zeros[sizes.topk(int(fraction * len(sizes)), largest=False).indices] = True
    parts = zeros.split([matrix.numel() for matrix in matrices])
    keeper = KeepZeros([(m, z.view_as(m)) for m, z in zip(matrices, parts, strict=True)])
    keeper.enforce()
    return keeper


class KeepZeros(TrainerCallback):
    """Set entries back to zero after every optimiser step."""

    def __init__(self, zeros: list[tuple[nn.Parameter, Tensor]]) -> None:
        self.zeros = zeros

    def enforce(self) -> None:
        """Set the entries to zero now."""
        with torch.no_grad():
            for matrix, zero in self.zeros:
                matrix.masked_fill_(zero.to(matrix.device), 0.0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Set the entries to zero after an optimiser step."""
        self.enforce()
