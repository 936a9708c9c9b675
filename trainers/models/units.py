"""Split a matrix into its shared and its private units, and join them again.

Shared units come first in every layer. For a matrix whose units are along `axis` in several
sections (a fused q|k|v has three), every section is cut at the same unit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sharetune.spaces.forms import Narrow
from sharetune.spaces.parts import FFN
from sharetune.trainers.models.structure import Slot


@dataclass(frozen=True)
class Cut:
    """Where a matrix or a bias is cut: sizes of the shared and the private part by section."""

    axis: int
    shared: tuple[int, ...]
    private: tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Return whether all units are shared."""
        return not any(self.private)

    def split(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shared and the private part of `tensor` (a matrix out x in, or a bias)."""
        sizes = [size for pair in zip(self.shared, self.private, strict=True) for size in pair]
        pieces = tensor.split(sizes, dim=self.axis)
        return torch.cat(pieces[0::2], self.axis), torch.cat(pieces[1::2], self.axis)

    def join(self, shared: Tensor, private: Tensor) -> Tensor:
        """Return the tensor that :meth:`split` cut."""
        if len(self.shared) == 1:
            return torch.cat((shared, private), self.axis)
        banks = shared.split(self.shared, self.axis)
        rests = private.split(self.private, self.axis)
        return torch.cat([p for pair in zip(banks, rests, strict=True) for p in pair], self.axis)


def cut_at(slot: Slot, shared_units: int) -> Cut:
    """Return the cut of `slot` after its first `shared_units` units."""
    shared = tuple(size // slot.units * shared_units for size in slot.sections)
    private = tuple(a - b for a, b in zip(slot.sections, shared, strict=True))
    return Cut(slot.axis, shared, private)


def kept_units(slot: Slot, form: Narrow) -> int:
    """Return the number of units that a narrowed layer keeps: whole heads, neurons in eights."""
    step = 8 if slot.role in FFN else 1
    return min(slot.units, step * form.kept(slot.units // step))


def shared_units(slot: Slot, ratio: float) -> int:
    """Return the number of units that `ratio` (0..1) shares: whole heads, neurons in eights."""
    if ratio == 1:
        return slot.units
    step = 8 if slot.role in FFN else 1
    return step * int(ratio * (slot.units // step) + 0.5)
