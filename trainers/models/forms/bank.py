"""The unit bank and the tie: a fraction of the units is shared, the rest stays private."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from sharetune.spaces.forms import Bank, Tie
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.modules import Multiplier, SharedLinear, linear, product
from sharetune.trainers.models.units import Cut, cut_at, shared_units


class BankLinear(SharedLinear):
    """A matrix whose first units are the bank's and whose other units are its own."""

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
    def weight(self) -> Tensor:
        """Return the bank's units followed by the private ones, out x in."""
        shared: Tensor = self.entry.weight  # type: ignore[assignment]
        return shared if self.private is None else self.cut.join(shared, self.private.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden @ weight.T + bias``: (..., in) -> (..., out)."""
        if isinstance(self.entry, Multiplier):
            return self.forward_apart(hidden)
        return super().forward(hidden)

    def forward_apart(self, hidden: Tensor) -> Tensor:
        """Return the same by two products: joined for units along rows, summed along columns."""
        if self.private is None:
            return product(self.entry, hidden, self.bias)
        features = replace(self.cut, axis=-1)
        if self.cut.axis == 1:
            shared, rest = features.split(hidden)
            return product(self.entry, shared, self.bias) + product(self.private, rest)
        joined = features.join(product(self.entry, hidden), product(self.private, hidden))
        return joined if self.bias is None else joined + self.bias


@BUILDERS.register("bank")
def build_bank(form: Bank, matrices: Matrices, bank: nn.ModuleDict, key: str) -> list[SharedLinear]:
    """Return readers of one bank of ``ratio * P`` parameters, ``(1 - ratio) * P`` private each."""
    slot = matrices.slot
    units = shared_units(slot, form.ratio)
    if units == 0:
        return []
    cut = cut_at(slot, units)
    parts = [cut.split(weight) for weight in matrices.weights]
    shares_bias = matrices.share_biases and cut.is_whole and matrices.biases[0] is not None
    bias = matrices.start([b for b in matrices.biases if b is not None]) if shares_bias else None
    bank[key] = linear(matrices.start([shared for shared, _ in parts]), bias)
    return [
        BankLinear(
            bank,
            key,
            cut,
            private,
            None if shares_bias else own_bias,
            transposed=matrices.transposed,
        )
        for (_, private), own_bias in zip(parts, matrices.biases, strict=True)
    ]


@BUILDERS.register("tie")
def build_tie(_: Tie, matrices: Matrices, bank: nn.ModuleDict, key: str) -> Sequence[nn.Module]:
    """Return readers of one bank of P parameters and nothing private."""
    return build_bank(Bank(ratio=1), matrices, bank, key)
