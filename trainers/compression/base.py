"""Compress a trained model by one method each.

A new method is one file here, with a :class:`Compressor` registered in `COMPRESSORS`, and its knobs
as a :class:`sharetune.spaces.compression.Method` of the same name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from sharetune.spaces.compression import COMPRESSIONS, Compression
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.registry import Registry

Batches = Sequence[Mapping[str, Tensor]]
"""Batches of labelled training examples, on the model's device."""


class Compressor:
    """Base of all compressors; `method` holds the knobs. Subclasses define one of the two."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def reshape_(self, model: PreTrainedModel) -> None:
        """Gives the shared `model`, in place, the shapes that compressed weights have.

        Works on the meta device too. Raises :class:`PlanError` where that cannot be done.
        """

    def apply_(self, model: PreTrainedModel, batches: Batches) -> TrainerCallback | None:
        """Compresses the trained `model` in place; returns what keeps it so in further training."""
        self.reshape_(model)
        return None

    def rounding(self, model: PreTrainedModel) -> TrainerCallback:
        """Return what makes a training of `model` compute with weights as this method rounds them.

        Raises :class:`ConfigError` where the method does not say how.
        """
        raise ConfigError(
            f"the method {self.method.name} cannot round weights during a training",
            "leave out aware",
        )


COMPRESSORS: Registry[type[Compressor]] = Registry(
    "compression method", package="sharetune.trainers.compression", declared=COMPRESSIONS
)


def compressors(compression: Compression) -> list[Compressor]:
    """The compressors of the methods that `compression` asks for, in order."""
    return [COMPRESSORS[method.name](method) for method in compression.chosen]
