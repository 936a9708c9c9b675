"""Store matrices as 8-bit numbers with one scale a row; multiply in full precision or 8 bits.
In 4 bits, two numbers a byte, every 32 numbers of a row have a scale.

Symmetric and by row: ``W_ij = s_i q_ij, s_i = max_j |W_ij| / 127`` (LLM.int8(), arXiv 2208.07339,
section 2.1); for products in 8 bits the input is rounded in the same way token by token. A bank's
entry is quantised in place, once for all its readers. A training that is aware of the rounding
computes with rounded weights and changes the exact ones (straight-through, arXiv 1308.3432).
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.pytorch_utils import Conv1D

from sharetune.trainers.compression.base import COMPRESSORS, Compressor
from sharetune.trainers.models.modules import Multiplier, linear, product
from sharetune.trainers.models.parameters import head_parameters

MAX_INT8 = 127
"""The largest 8-bit number in use; -128 is left out, so that the range is symmetric."""

MAX_INT4 = 7
"""The largest 4-bit number in use; -8 is left out."""

GROUP = 32
"""Neighbours of a row that have a scale in 4 bits, as llama.cpp's Q4_0 has it."""


@COMPRESSORS.register("int8")
class Quantisation(Compressor):
    """Stores matrices in 8 bits."""

    @property
    def kind(self) -> "type[RoundedLinear]":
        """Return the class of layers whose matrices are so stored."""
        return Int8Linear

    def reshape_(self, model: PreTrainedModel) -> None:
        quantise_(model, self.kind)

    def rounding(self, model: PreTrainedModel) -> TrainerCallback:
        return RoundedSteps(_matrices(model), self.kind)


@COMPRESSORS.register("dynamic-int8")
class DynamicQuantisation(Quantisation):
    """Stores matrices in 8 bits, and multiplies them so."""

    @property
    def kind(self) -> "type[RoundedLinear]":
        return DynamicInt8Linear


@COMPRESSORS.register("int4")
class Quantisation4(Quantisation):
    """Stores matrices in 4 bits."""

    @property
    def kind(self) -> "type[RoundedLinear]":
        return Int4Linear


class Rounded(nn.Module):
    """A matrix (rows x columns) that is stored as small numbers and scales."""

    def __init__(self, numbers: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.numbers = nn.Parameter(numbers.contiguous(), requires_grad=False)
        self.scale = nn.Parameter(scale.contiguous(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """Return the matrix in the scale's precision."""
        raise NotImplementedError


class Int8(Rounded):
    """A matrix as `numbers` (int8, rows x columns) and `scale` (rows x 1)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(*rounded(weight.detach()))

    @property
    def weight(self) -> Tensor:
        return self.numbers.to(self.scale.dtype) * self.scale


class Int4(Rounded):
    """A matrix as `numbers` (uint8, rows x half the columns) and `scale` (rows x groups).

    A byte holds an even column's number in its lower half and the next one's in the upper, both
    larger by 8.
    """

    def __init__(self, weight: Tensor) -> None:
        numbers, scale = rounded_in_groups(weight.detach())
        numbers = functional.pad(numbers, (0, numbers.shape[1] % 2)) + 8
        super().__init__((numbers[:, ::2] | numbers[:, 1::2] << 4).to(torch.uint8), scale)
        self.columns = weight.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Return the rows and the columns of the matrix."""
        return len(self.numbers), self.columns

    @property
    def weight(self) -> Tensor:
        halves = torch.stack((self.numbers & 15, self.numbers >> 4), -1).flatten(1)
        numbers = halves[:, : self.columns].to(self.scale.dtype) - 8
        return numbers * self.scale.repeat_interleave(GROUP, 1)[:, : self.columns]


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return `values` (rows x columns) as 8-bit numbers, and their scale (rows x 1)."""
    scale = values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny) / MAX_INT8
    return (values / scale).round().to(torch.int8), scale


def rounded_in_groups(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return `values` (rows x columns) as 4-bit numbers in int16, and scales (rows x groups)."""
    columns = values.shape[1]
    groups = functional.pad(values, (0, -columns % GROUP)).unflatten(1, (-1, GROUP))
    scale = groups.abs().amax(2).clamp_min(torch.finfo(values.dtype).tiny) / MAX_INT4
    numbers = (groups / scale[..., None]).round().flatten(1)[:, :columns]
    return numbers.to(torch.int16), scale


class RoundedLinear(Rounded):
    """A linear layer whose matrix (out x in) is stored as small numbers; the bias is not."""

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, *, transposed: bool) -> None:
        super().__init__(weight)  # type: ignore[call-arg]  # of the next class, which rounds it
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


class Int8Linear(RoundedLinear, Int8):
    """A linear layer whose matrix is stored in 8 bits."""


class Int4Linear(RoundedLinear, Int4):
    """A linear layer whose matrix is stored in 4 bits."""


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


def quantise_(model: PreTrainedModel, kind: type[RoundedLinear] = Int8Linear) -> None:
    """Quantise, in place, every matrix and table of embeddings outside the head.

    `kind` is what a linear layer becomes; tables are stored in 8 bits. With `DynamicInt8Linear`
    products are in 8 bits too, except for banks of forms that compute something from them before
    they multiply. A matrix with two names, such as embeddings tied to an output layer, stays as it
    is; so do tensors that are no layer's weight: norms, biases, factors of ``atoms``.
    """
    for parent, name, child in _matrices(model):
        small = _rounded(child, kind)
        # keep forward hooks: `reuse` lends this layer's output
        small._forward_hooks = child._forward_hooks
        parent._modules[name] = small


def _matrices(model: PreTrainedModel) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return the layers that are quantised, each after its parent and its name there."""
    head, names = head_parameters(model), Counter(_weights(model))
    return [
        (parent, name, child)
        for path, parent in model.named_modules()
        for name, child in parent.named_children()
        if type(child) in (nn.Linear, Conv1D, nn.Embedding)
        and f"{path}.{name}.weight".lstrip(".") not in head
        and names[id(child.weight)] == 1
    ]


def _rounded(module: Any, kind: type[RoundedLinear]) -> Int8 | RoundedLinear:
    if type(module) is nn.Embedding:
        return Int8Embedding(module.weight)
    transposed = type(module) is Conv1D
    weight = module.weight.T if transposed else module.weight
    return kind(weight, module.bias, transposed=transposed)


class RoundedSteps(TrainerCallback):
    """Compute each step with rounded weights, and take its gradient for the exact ones."""

    def __init__(
        self, layers: list[tuple[nn.Module, str, nn.Module]], kind: type[RoundedLinear]
    ) -> None:
        self.layers, self.kind = [layer for _, _, layer in layers], kind
        self.exact: list[tuple[nn.Parameter, Tensor]] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Round the weights, and keep the exact ones."""
        with torch.no_grad():
            for layer in self.layers:
                near = _rounded(layer, self.kind).weight
                weight: Any = layer.weight
                self.exact.append((weight, weight.data))
                weight.data = near.T.contiguous() if type(layer) is Conv1D else near

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Put the exact weights back, before they are changed."""
        for weight, exact in self.exact:
            weight.data = exact
        self.exact.clear()


def _weights(model: PreTrainedModel) -> list[int]:
    return [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
