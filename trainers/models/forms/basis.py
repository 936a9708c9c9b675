"""Basis vectors that all layers share and coefficients of each layer's own.

Matrices that read the residual stream (q, k, v, fc_in, gate) share their input side, ``W_l = C_l
B`` with B (k x in) shared. Matrices that write to it (o, fc_out) share their output side, ``W_l = B
C_l`` with B (out x k) shared: the residual stream is the same space in every layer, while heads and
neurons have an order of their own in each layer, which is why Basis Sharing (arXiv 2410.03765),
which shares input sides only, leaves o and fc_out private. For n layers the form stores ``k in + n
out k`` and ``k out + n in k`` parameters.
"""

from torch import Tensor, nn
from torch.nn import functional

from sharetune.spaces.forms import Basis
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.forms.eigen import shared_input, shared_output
from sharetune.trainers.models.modules import SharedLinear, linear


class BasisLinear(SharedLinear):
    """A matrix that is the product of the bank's basis and private coefficients."""

    def __init__(
        self,
        banks: nn.ModuleDict,
        key: str,
        bias: Tensor | None,
        coefficients: Tensor,
        *,
        shares_input: bool,
        transposed: bool,
    ) -> None:
        super().__init__(banks, key, bias, transposed=transposed)
        self.coefficients = linear(coefficients)
        self.shares_input = shares_input

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the factor that is applied first (k x in), and the other (out x k)."""
        basis: Tensor = self.entry.weight  # type: ignore[assignment]
        own = self.coefficients.weight
        return (basis, own) if self.shares_input else (own, basis)

    @property
    def matrix(self) -> Tensor:
        """Return the product of both factors, out x in."""
        first, second = self.factors
        return second @ first

    @property
    def composes(self) -> bool:
        """Return whether a product with the matrix takes no more FLOPs than with its factors."""
        first, second = self.factors
        (rank, ins), outs = first.shape, len(second)
        return rank * (ins + outs) >= ins * outs

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden @ weight.T + bias``, in the way that takes fewer FLOPs."""
        return super().forward(hidden) if self.composes else self.forward_apart(hidden)

    def forward_apart(self, hidden: Tensor) -> Tensor:
        """Return the same by a product with each factor."""
        first, second = self.factors
        return functional.linear(functional.linear(hidden, first), second, self.bias)


@BUILDERS.register("basis")
def build_basis(
    form: Basis, matrices: Matrices, bank: nn.ModuleDict, key: str
) -> list[SharedLinear]:
    """Return readers whose factors decompose all layers' matrices; biases stay private.

    If inputs were recorded, the outputs' error on them is the least that `rank` allows.
    """
    shares_input = matrices.slot.axis == 0
    decompose = shared_input if shares_input else shared_output
    most = len(matrices.weights) * matrices.weights[0].shape[matrices.slot.axis]
    basis, coefficients = decompose(matrices.weights, matrices.inputs, min(form.rank, most))
    bank[key] = linear(basis)
    return [
        BasisLinear(bank, key, bias, own, shares_input=shares_input, transposed=matrices.transposed)
        for own, bias in zip(coefficients, matrices.biases, strict=True)
    ]
