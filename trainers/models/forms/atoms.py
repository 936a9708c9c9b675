"""Matrices mixed from shared matrices, the atoms, by each layer's coefficients: ``sum_s c_ls D_s``.

MASA (arXiv 2508.04581) learns such a dictionary for each projection; from pretrained layers it
starts at the principal components of their flattened matrices, here whitened by their inputs. For n
layers of out x in the form stores ``s out in + n s`` parameters.
"""

import torch
from torch import Tensor, nn

from sharetune.spaces.forms import Atoms
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.forms.eigen import covariance, leading_eigenvectors
from sharetune.trainers.models.modules import SharedLinear, linear


class AtomsLinear(SharedLinear):
    """A weighted sum of the bank's atoms, which are stacked in one matrix (s out x in)."""

    def __init__(
        self,
        banks: nn.ModuleDict,
        key: str,
        bias: Tensor | None,
        mixing: Tensor,
        *,
        transposed: bool,
    ) -> None:
        super().__init__(banks, key, bias, transposed=transposed)
        self.mixing = linear(mixing)

    @property
    def matrix(self) -> Tensor:
        """Return the weighted sum, out x in."""
        atoms: Tensor = self.entry.weight  # type: ignore[assignment]
        mixing = self.mixing.weight  # 1 x s
        return (mixing @ atoms.view(mixing.shape[1], -1)).view(-1, atoms.shape[1])


@BUILDERS.register("atoms")
def build_atoms(
    form: Atoms, matrices: Matrices, bank: nn.ModuleDict, key: str
) -> list[SharedLinear]:
    """Return readers with the nearest mixtures to all layers' matrices; exact with an atom a layer.

    If inputs were recorded, nearest in the outputs for all layers' inputs together: ``sum ||X (W_l
    - sum_s c_ls D_s)^T||^2`` is least. Biases stay private.
    """
    flat = torch.stack([weight.flatten() for weight in matrices.weights]).float()
    mixing = leading_eigenvectors(_gram(matrices, flat), form.count)  # layers x s
    atoms = (mixing.T @ flat).view(-1, matrices.weights[0].shape[1])
    dtype = matrices.weights[0].dtype
    bank[key] = linear(atoms.to(dtype))
    return [
        AtomsLinear(bank, key, bias, own[None].to(dtype), transposed=matrices.transposed)
        for own, bias in zip(mixing, matrices.biases, strict=True)
    ]


def _gram(matrices: Matrices, flat: Tensor) -> Tensor:
    """Return the inner products of the layers' matrices, or of their outputs: layers x layers."""
    if matrices.inputs is None:
        return flat @ flat.T
    moment = covariance(matrices.inputs, flat.device).float()
    seen = torch.stack([(weight.float() @ moment).flatten() for weight in matrices.weights])
    return seen @ flat.T
