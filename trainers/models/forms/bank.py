"""The unit bank and the tie: a fraction of the units is shared, the rest stays private.

Layers of one bank may read unlike fractions: one that reads less reads the first of its units.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sharetune.spaces.forms import Bank, Tie
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.modules import Multiplier, SharedLinear, linear, product
from sharetune.trainers.models.units import Cut, cut_at, shared_units


class BankLinear(SharedLinear):
    """A matrix whose first units are the bank's first ones and whose other units are its own."""

    def __init__(
        self,
        banks: nn.ModuleDict,
        key: str,
        cut: Cut,
        private: Tensor,
        bias: Tensor | None,
        *,
        transposed: bool,
    ) -> None:
        super().__init__(banks, key, bias, transposed=transposed)
        self.cut = cut
        self.private = None if cut.is_whole else linear(private)

    @property
    def reads(self) -> Cut:
        """Return where the bank's entry is cut: what this layer reads, and what others read."""
        sizes = [sum(pair) for pair in zip(self.cut.shared, self.cut.private, strict=True)]
        first: Any = next(self.entry.parameters())
        stored = getattr(self.entry, "shape", first.shape)[self.cut.axis]  # `shape` if packed
        entry = [stored * size // sum(sizes) for size in sizes]
        beyond = (whole - own for whole, own in zip(entry, self.cut.shared, strict=True))
        return Cut(self.cut.axis, self.cut.shared, tuple(beyond))

    @property
    def matrix(self) -> Tensor:
        """Return the bank's units followed by the private ones, out x in."""
        shared: Tensor = self.entry.weight  # type: ignore[assignment]
        if not self.reads.is_whole:
            shared, _ = self.reads.split(shared)
        return shared if self.private is None else self.cut.join(shared, self.private.weight)

    def start_from_(self, other: SharedLinear) -> None:
        if self.private is not None:
            with torch.no_grad():
                self.private.weight.copy_(self.cut.split(other.weight)[1])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden @ weight.T + bias``: (..., in) -> (..., out)."""
        if isinstance(self.entry, Multiplier):
            return self.forward_apart(hidden)
        return super().forward(hidden)

    def forward_apart(self, hidden: Tensor) -> Tensor:
        """Return the same by two products: joined for units along rows, summed along columns."""
        if self.private is None:
            return product(self.entry, hidden, self.bias)
        features, reads = replace(self.cut, axis=-1), replace(self.reads, axis=-1)
        if self.cut.axis == 1:
            shared, rest = features.split(hidden)
            if not reads.is_whole:
                beyond = shared.new_zeros(*shared.shape[:-1], sum(reads.private))
                shared = reads.join(shared, beyond)
            return product(self.entry, shared, self.bias) + product(self.private, rest)
        shared = product(self.entry, hidden)
        if not reads.is_whole:
            shared, _ = reads.split(shared)
        joined = features.join(shared, product(self.private, hidden))
        return joined if self.bias is None else joined + self.bias


@BUILDERS.register("bank")
def build_bank(form: Bank, matrices: Matrices, bank: nn.ModuleDict, key: str) -> list[SharedLinear]:
    """Return readers of one bank of ``ratio * P`` parameters, ``(1 - ratio) * P`` private each.

    The bank is as large as the largest ratio says.
    """
    slot = matrices.slot
    units = [shared_units(slot, form.share(place)) for place in range(len(matrices.weights))]
    if max(units) == 0:
        return []
    cuts, entry = [cut_at(slot, count) for count in units], cut_at(slot, max(units))
    is_whole = min(units) == slot.units
    shares_bias = matrices.share_biases and is_whole and matrices.biases[0] is not None
    bias = matrices.start([b for b in matrices.biases if b is not None]) if shares_bias else None
    shared = [entry.split(weight)[0] for weight in matrices.weights]
    bank[key] = linear(matrices.start(_complete(shared, units, entry)), bias)
    return [
        BankLinear(
            bank,
            key,
            cut,
            cut.split(weight)[1],
            None if shares_bias else own_bias,
            transposed=matrices.transposed,
        )
        for cut, weight, own_bias in zip(cuts, matrices.weights, matrices.biases, strict=True)
    ]


def _complete(shared: Sequence[Tensor], units: Sequence[int], entry: Cut) -> Sequence[Tensor]:
    """Return each layer's units of the bank; those it does not read are the mean of who does."""
    if len(set(units)) == 1:
        return shared
    most = max(units)
    numbers = torch.cat([torch.arange(size) // (size // most) for size in entry.shared])
    numbers = numbers.to(shared[0].device).unsqueeze(1 - entry.axis)
    read = [(numbers < count).to(shared[0].dtype) for count in units]
    mean = sum(w * own for w, own in zip(shared, read, strict=True)) / sum(read)
    return [w * own + mean * (1 - own) for w, own in zip(shared, read, strict=True)]


@BUILDERS.register("tie")
def build_tie(_: Tie, matrices: Matrices, bank: nn.ModuleDict, key: str) -> Sequence[nn.Module]:
    """Return readers of one bank of P parameters and nothing private."""
    return build_bank(Bank(ratio=1), matrices, bank, key)
