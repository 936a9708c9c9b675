"""Count further numbers that are exact before training, after those of `sizes.py`.

A new one is one registered function, and an :class:`sharetune.spaces.objectives.Objective` of the
same name whose source is ``exact``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.compression import Compression
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.registry import Registry


@dataclass(frozen=True)
class Sized:
    """The model, plan and inputs that an exact number is computed from, on the meta device.

    `plan` is bound to the `unshared` model, and `inputs` are one example of full length.
    """

    unshared: PreTrainedModel
    plan: SharingPlan
    compression: Compression
    inputs: dict[str, Tensor]
    build: Callable[[], PreTrainedModel]

    @cached_property
    def model(self) -> PreTrainedModel:
        """The shared and compressed model, which takes a third of a second to build."""
        return self.build()


EXACT: Registry[Callable[[Sized], float]] = Registry("exact number", declared=OBJECTIVES)


def further_facts(sized: Sized) -> dict[str, float]:
    """Return the number of every registered function, by its name."""
    return {name: float(count(sized)) for name, count in EXACT.items()}
