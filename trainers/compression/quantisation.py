"""Store matrices as 8-bit numbers with one scale a row; multiply in full precision or 8 bits.

Symmetric and by row: ``W_ij = s_i q_ij, s_i = max_j |W_ij| / 127`` (LLM.int8(), arXiv 2208.07339,
section 2.1); for products in 8 bits the input is rounded in the same way token by token. A bank's
entry is quantised in place, once for all its readers.
"""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sharetune.trainers.models.modules import Multiplier, linear, product
from sharetune.trainers.models.parameters import head_parameters

MAX_INT8 = 127
"""The largest 8-bit number in use; -128 is left out, so that the range is symmetric."""


class Int8(nn.Module):
    """A matrix as `numbers` (int8, rows x columns) and `scale` (rows x 1)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        numbers, scale = rounded(weight.detach())
        self.numbers = nn.Parameter(numbers.contiguous(), requires_grad=False)
        self.scale = nn.Parameter(scale.contiguous(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """Return the matrix in the scale's precision."""
        return self.numbers.to(self.scale.dtype) * self.scale


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return `values` (rows x columns) as 8-bit numbers, and their scale (rows x 1)."""
    scale = values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny) / MAX_INT8
    return (values / scale).round().to(torch.int8), scale


class Int8Linear(Int8):
    """A linear layer whose matrix (out x in) is stored in 8 bits; the bias is not."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, *, transposed: bool) -> None:
        super().__init__(weight)
        self.register_parameter("bias", bias)
        self.transposed = transposed

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden @ weight.T + bias``: (..., in) -> (..., out)."""
        return functional.linear(hidden, self.weight, self.bias)

    def materialize(self) -> nn.Module:
        """Return a layer of the original class with the rounded weights."""
        dense = linear(self.weight, self.bias)
        if not self.transposed:
            return dense
        conv = Conv1D(dense.out_features, dense.in_features)
        conv.weight, conv.bias = nn.Parameter(dense.weight.detach().T.contiguous()), dense.bias
        return conv


class DynamicInt8Linear(Int8Linear, Multiplier):
    """An :class:`Int8Linear` that multiplies in 8 bits, its input rounded token by token."""

    def product(self, hidden: Tensor) -> Tensor:
        """Return ``hidden @ weight.T``, both rounded: (..., in) -> (..., out)."""
        numbers, scale = rounded(hidden.reshape(-1, hidden.shape[-1]))
        output = integer_product(numbers, self.numbers).to(hidden.dtype) * scale * self.scale.T
        return output.unflatten(0, hidden.shape[:-1])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden @ weight.T + bias``, rounded: (..., in) -> (..., out)."""
        return product(self, hidden, self.bias)


def integer_product(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right.T`` of 8-bit numbers.

    A GPU needs more than 16 rows and multiples of 8; other shapes are computed in floats there.
    """
    unsupported = left.shape[1] % 8 or right.shape[0] % 8 or left.shape[0] <= 16
    if left.is_cuda and unsupported:
        return left.float() @ right.float().T
    found: Tensor = torch._int_mm(left, right.T)
    return found


class Int8Embedding(Int8):
    """A table of embeddings whose rows are stored in 8 bits."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids`: (...) -> (..., columns)."""
        rows = functional.embedding(ids, self.numbers)
        return rows.to(self.scale.dtype) * functional.embedding(ids, self.scale)

    def materialize(self) -> nn.Module:
        """Return a table in full precision, with the rounded weights."""
        return nn.Embedding.from_pretrained(self.weight.detach().clone(), freeze=False)


def quantise_(model: PreTrainedModel, *, dynamic: bool = False) -> None:
    """Quantise, in place, every matrix and table of embeddings outside the head.

    With `dynamic` products are in 8 bits too, except for banks of forms that compute something from
    them before they multiply. A matrix with two names, such as embeddings tied to an output layer,
    stays as it is; so do tensors that are no layer's weight: norms, biases, factors of ``atoms``.
    """
    head, names = head_parameters(model), Counter(_weights(model))
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            weight = getattr(child, "weight", None)
            if f"{path}.{name}.weight".lstrip(".") in head or names[id(weight)] > 1:
                continue
            small = _in_eight_bits(child, DynamicInt8Linear if dynamic else Int8Linear)
            if small is not None:
                # keep forward hooks: `reuse` lends this layer's output
                small._forward_hooks = child._forward_hooks
                parent._modules[name] = small


def _in_eight_bits(module: nn.Module, kind: type[Int8Linear]) -> Int8 | None:
    if type(module) is nn.Linear:
        return kind(module.weight, module.bias, transposed=False)
    if type(module) is Conv1D:
        return kind(module.weight.T, module.bias, transposed=True)
    return Int8Embedding(module.weight) if type(module) is nn.Embedding else None


def _weights(model: PreTrainedModel) -> list[int]:
    return [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
