"""A shared matrix plus a private low-rank residual a layer, ``W_l = diag(d_l) S + B_l A_l``.

Relaxed Recursive Transformers (arXiv 2410.20672) start B A from the truncated singular value
decomposition of ``W_l - S``, here whitened by the layer's own inputs; the scale of rows is ours,
after the diagonal of ResidualTransformer (arXiv 2310.02489). Talking heads (arXiv 2003.02436) and
MiniViT (arXiv 2204.07154) mix attention's scores by an H x H matrix of the layer's own; here heads'
outputs are mixed, which is a factor of o's matrix, ``S (M_l x I)``, and needs no change of
attention kernels. For n layers of out x in the form stores ``out in + n r (out + in)`` parameters,
``n out`` more with the scale, and for o ``n H H`` more with the mixing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharetune.spaces.forms import LowRank
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.forms.eigen import shared_input, shared_output
from sharetune.trainers.models.modules import SharedLinear, linear


class LowRankLinear(SharedLinear):
    """The bank's matrix with rows scaled and heads mixed, plus the product ``up @ down``."""

    def __init__(
        self,
        banks: nn.ModuleDict,
        key: str,
        bias: Tensor | None,
        residual: tuple[Tensor, Tensor] | None,
        scale: Tensor | None,
        mixing: Tensor | None,
        *,
        transposed: bool,
    ) -> None:
        super().__init__(banks, key, bias, transposed=transposed)
        self.up = linear(residual[0]) if residual else None
        self.down = linear(residual[1]) if residual else None
        self.register_parameter("scale", None if scale is None else nn.Parameter(scale))
        self.register_parameter("mixing", None if mixing is None else nn.Parameter(mixing))

    @property
    def matrix(self) -> Tensor:
        """Return ``scale * S (mixing x I) + up @ down``, out x in."""
        weight: Tensor = self.entry.weight  # type: ignore[assignment]
        if self.mixing is not None:
            weight = _mixed(weight, self.mixing.T)
        if self.scale is not None:
            weight = self.scale * weight
        if self.up is not None and self.down is not None:
            weight = torch.addmm(weight, self.up.weight, self.down.weight)
        return weight

    def forward_apart(self, hidden: Tensor) -> Tensor:
        """Return the same by products with the bank's matrix and with the thin factors."""
        mixed = hidden if self.mixing is None else _mixed(hidden, self.mixing)
        output = functional.linear(mixed, self.entry.weight)  # type: ignore[arg-type]
        if self.scale is not None:
            output = output * self.scale[:, 0]
        if self.up is not None and self.down is not None:
            output = output + self.up(self.down(hidden))
        return output if self.bias is None else output + self.bias


def _mixed(columns: Tensor, mixing: Tensor) -> Tensor:
    """Return heads ``i = sum_j mixing[i, j] * head j`` of `columns` (..., heads * d)."""
    return (mixing @ columns.unflatten(-1, (len(mixing), -1))).flatten(-2)


@BUILDERS.register("lowrank")
def build_lowrank(
    form: LowRank, matrices: Matrices, bank: nn.ModuleDict, key: str
) -> list[SharedLinear]:
    """Return readers that start at the layers' matrices, as nearly as `rank` allows.

    The bank starts as the group's `init` says, residuals at the difference from it, scales at 1,
    mixing at the identity. If inputs were recorded, the remaining error is least in the matrices'
    outputs.
    """
    shared = matrices.start(matrices.weights)
    shares_bias = matrices.share_biases and matrices.biases[0] is not None
    bias = matrices.start([b for b in matrices.biases if b is not None]) if shares_bias else None
    bank[key] = linear(shared, bias)
    mixes = form.heads and "o" in matrices.slot.roles
    given = matrices.inputs or [None] * len(matrices.weights)
    return [
        LowRankLinear(
            bank,
            key,
            None if shares_bias else own_bias,
            factors(weight - shared, form.rank, inputs) if form.rank else None,
            shared.new_ones(len(shared), 1) if form.diagonal else None,
            torch.eye(matrices.slot.units).to(shared) if mixes else None,
            transposed=matrices.transposed,
        )
        for weight, own_bias, inputs in zip(matrices.weights, matrices.biases, given, strict=True)
    ]


def factors(matrix: Tensor, rank: int, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the product of out x r and r x in that is nearest to `matrix`, or to its outputs.

    With `inputs` (tokens x in) outputs are compared. r is at most the smaller side. Without inputs
    the error is the root of the sum of squares of the singular values that are left out (Eckart and
    Young).
    """
    given = None if inputs is None else [inputs]
    if matrix.shape[0] > matrix.shape[1]:
        down, (up,) = shared_input([matrix], given, rank)
    else:
        up, (down,) = shared_output([matrix], given, rank)
    return up, down
