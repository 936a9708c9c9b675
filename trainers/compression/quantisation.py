"""Stores matrices as 8-bit numbers with one scale a row; products are in full precision.

Symmetric and by row: ``W_ij = s_i q_ij, s_i = max_j |W_ij| / 127`` (LLM.int8(), arXiv 2208.07339,
section 2.1). A bank's entry is quantised where it lies, once for all its readers.
"""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainers.groups import head_parameters
from trainers.modules import linear

LARGEST = 127


class Int8(nn.Module):
    """A matrix as `numbers` (int8, rows x columns) and `scale` (rows x 1)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight = weight.detach()
        scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        scale = scale / LARGEST
        numbers = (weight / scale).round().to(torch.int8)
        self.numbers = nn.Parameter(numbers.contiguous(), requires_grad=False)
        self.scale = nn.Parameter(scale.contiguous(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The matrix in the scale's precision."""
        return self.numbers.to(self.scale.dtype) * self.scale


class Int8Linear(Int8):
    """A linear layer whose matrix (out x in) is kept in 8 bits; the bias is not."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, *, transposed: bool) -> None:
        super().__init__(weight)
        self.register_parameter("bias", bias)
        self.transposed = transposed

    def forward(self, hidden: Tensor) -> Tensor:
        """``hidden @ weight.T + bias``: (..., in) -> (..., out)."""
        return functional.linear(hidden, self.weight, self.bias)

    def materialize(self) -> nn.Module:
        """The layer of the kind that stood here before, with the rounded weights."""
        dense = linear(self.weight, self.bias)
        if not self.transposed:
            return dense
        conv = Conv1D(dense.out_features, dense.in_features)
        conv.weight, conv.bias = nn.Parameter(dense.weight.detach().T.contiguous()), dense.bias
        return conv


class Int8Embedding(Int8):
    """A table of embeddings whose rows are kept in 8 bits."""

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of `ids`: (...) -> (..., columns)."""
        rows = functional.embedding(ids, self.numbers)
        return rows.to(self.scale.dtype) * functional.embedding(ids, self.scale)

    def materialize(self) -> nn.Module:
        """A table in full precision, with the rounded weights."""
        return nn.Embedding.from_pretrained(self.weight.detach().clone(), freeze=False)


def quantise_(model: PreTrainedModel) -> None:
    """Quantises, in place, every matrix and table of embeddings outside the head.

    One that has two names, such as embeddings tied to an output layer, stays as it is; so do
    tensors that are no layer's weight: norms, biases, factors of ``atoms``.
    """
    head, names = head_parameters(model), Counter(_weights(model))
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            weight = getattr(child, "weight", None)
            if f"{path}.{name}.weight".lstrip(".") in head or names[id(weight)] > 1:
                continue
            small = _in_eight_bits(child)
            if small is not None:
                small._forward_hooks = child._forward_hooks  # what hands its output on, does still
                parent._modules[name] = small


def _in_eight_bits(module: nn.Module) -> Int8 | None:
    if type(module) is nn.Linear:
        return Int8Linear(module.weight, module.bias, transposed=False)
    if type(module) is Conv1D:
        return Int8Linear(module.weight.T, module.bias, transposed=True)
    return Int8Embedding(module.weight) if type(module) is nn.Embedding else None


def _weights(model: PreTrainedModel) -> list[int]:
    return [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
