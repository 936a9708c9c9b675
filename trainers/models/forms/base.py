"""The registry of the functions that build each form's bank and readers.

A new form is one file here, with a :class:`SharedLinear` that composes the weight and a builder
registered in `BUILDERS`, and its settings as a :class:`sharetune.spaces.forms.Form` of the same
name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sharetune.spaces.registry import Registry
from sharetune.trainers.models.structure import Slot


@dataclass(frozen=True)
class Matrices:
    """The matrices of one role in the layers of a group, in layer order.

    `weights` are out x in, `biases` out or None. `start` makes one tensor from all the layers'
    tensors. `share_biases` says whether the plan shares biases too. `inputs` (tokens x in) are the
    recorded inputs of each matrix, if any.
    """

    slot: Slot
    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    start: Callable[[Sequence[Tensor]], Tensor]
    share_biases: bool
    transposed: bool
    inputs: Sequence[Tensor] | None = None


Builder = Callable[[Any, Matrices, nn.ModuleDict, str], Sequence[nn.Module]]
"""``(form, matrices, bank, key) -> readers``: puts the shared tensors into ``bank[key]`` and
returns one reader a layer, a :class:`SharedLinear` if its matrix is made from the bank."""

BUILDERS: Registry[Builder] = Registry("form", package="sharetune.trainers.models.forms")
