"""Let the units of a layer that stay give what those that are removed gave.

What a layer's units give is summed by one matrix, ``W x``. Of units R that go, a linear function
of those that stay, S, is kept by a ridge regression on second moments ``G = mean(x xᵀ)`` of its
inputs (Frantar and Alistarh, arXiv 2208.11580, of whose updates this is the end):

    W_S' = W_S + W_R G_RS (G_SS + λ diag G_SS)⁻¹

λ is in proportion to the columns that stay and to one over the tokens seen: with few tokens
nothing is moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from sharetune.trainers.models.mixtures import Mixture
from sharetune.trainers.models.structure import Slot, weight_out_in

Key = tuple[str, int, str]
"""``(stack, layer, path of a matrix)``."""

RIDGE = 0.4
"""λ for as many tokens as columns. Of SmolLM2's FFNs on 2,048 and 12,288 tokens, 0.2 and 0.03 left
the least divergence on other text (0.1 to 10 times as much changes little)."""

LEAST = 1e-6
"""Part of the mean diagonal that is added to it, for columns that are always zero."""


@dataclass
class Moments:
    """Sums over tokens of a matrix's inputs x (columns) and of x xᵀ (columns x columns)."""

    products: Tensor
    total: Tensor
    tokens: int

    @classmethod
    def of(cls, inputs: Tensor) -> "Moments":
        """Sum up `inputs` (tokens x columns)."""
        return cls(inputs.T @ inputs, inputs.sum(0), len(inputs))

    def add(self, inputs: Tensor) -> None:
        """Add further `inputs` (tokens x columns)."""
        self.products.addmm_(inputs.T, inputs)
        self.total += inputs.sum(0)
        self.tokens += len(inputs)


class Recorded(dict[Key, Tensor]):
    """Inputs of matrices, (tokens x columns) each, and `moments` of those that sum up units, which
    more tokens may have gone into.

    Moments count as long as the inputs are those that were recorded. `movable` are the families
    (stack, path of an attention or empty for the FFN) of the recorded model whose units can be
    permuted; None: not tried yet. `keeping` says of mixtures, by stack, why they cannot lose
    experts.
    """

    def __init__(self, inputs: Mapping[Key, Tensor], moments: Mapping[Key, Moments]) -> None:
        super().__init__(inputs)
        self.movable: set[tuple[str, str]] | None = None
        self.keeping: dict[tuple[str, Mixture], str] = {}
        self.moments = dict(moments)
        self._recorded = {key: inputs[key] for key in moments}

    def moments_at(self, key: Key) -> Moments | None:
        """Return the moments of a matrix's inputs, if its inputs are known at all."""
        if key in self.moments and self[key] is self._recorded[key]:
            return self.moments[key]
        return Moments.of(self[key]) if key in self else None


def as_recorded(activations: Mapping[Key, Tensor]) -> Recorded:
    """Return the inputs with their moments, if any were recorded apart."""
    return activations if isinstance(activations, Recorded) else Recorded(activations, {})


def unit_sizes(matrix: Any, slot: Slot, moments: Moments) -> Tensor:
    """Return the root of the mean square of what each unit gives (units), over the tokens."""
    weight = weight_out_in(matrix).detach().float()
    columns = weight.unflatten(1, (slot.units, -1)).transpose(0, 1)
    width = columns.shape[2]
    blocks = moments.products.unflatten(0, (slot.units, width)).unflatten(2, (slot.units, width))
    own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).to(weight.device)
    return ((columns @ own) * columns).sum((1, 2)).clamp_min(0).div(moments.tokens).sqrt()


def compensate_(matrix: Any, stays: Tensor, moments: Moments) -> None:
    """Move, in place, what the other columns of `matrix` give to the columns `stays`, before the
    others are removed; where there is a bias, it takes over what is constant."""
    weight = weight_out_in(matrix)
    device = weight.device
    products = moments.products.to(device) / moments.tokens
    mean = moments.total.to(device) / moments.tokens
    if matrix.bias is not None:
        products = products - mean[:, None] * mean
    goes = torch.ones(len(mean), dtype=torch.bool, device=device)
    goes[stays] = False
    whole = weight.detach().float()
    ridge = RIDGE * len(stays) / moments.tokens
    moved = whole[:, goes] @ _regression(products[:, stays], stays, goes, ridge)
    with torch.no_grad():
        if matrix.bias is not None:
            left = whole[:, goes] @ mean[goes] - moved @ mean[stays]
            matrix.bias += left.to(matrix.bias.dtype)
        new = (whole[:, stays] + moved).to(weight.dtype)
        if isinstance(matrix, Conv1D):
            matrix.weight[stays] = new.T
        else:
            matrix.weight[:, stays] = new


def _regression(products: Tensor, stays: Tensor, goes: Tensor, ridge: float) -> Tensor:
    """Return the coefficients (columns that go x columns that stay) of a ridge regression."""
    own = products[stays]
    diagonal = own.diagonal() + LEAST * own.diagonal().mean() + torch.finfo(own.dtype).tiny
    scale = diagonal.rsqrt()
    scaled = own * scale[:, None] * scale
    scaled.diagonal().add_(ridge + LEAST)
    factor = torch.linalg.cholesky(scaled)
    right = (products[goes] * scale).T
    return (torch.cholesky_solve(right, factor) * scale[:, None]).T
