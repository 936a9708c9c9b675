"""Move layers gradually, during training, from their own weights to the bank's, or back.

A schedule replaces each layer while ``alpha`` rises from 0 to 1 over the first part of training.
Most schedules give a layer weights of its own in addition to the bank's; the reverse starts with
all layers tied. At the end the model is the plan's, of the size that was counted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sharetune.spaces.registry import Registry
from sharetune.spaces.softening import SOFTENINGS
from sharetune.trainers.models.modules import SharedLinear

Start = Callable[[Sequence[Tensor]], Tensor]
"""``(tensors of the layers) -> the bank's initial tensor``."""


class SoftLinear(nn.Module):
    """A linear layer in transition to `reader`, which reads the bank.

    `alpha` (0..1) is the progress. Subclasses define the matrix until the end, by :attr:`weight`.
    """

    def __init__(self, reader: SharedLinear) -> None:
        super().__init__()
        self.reader = reader
        self.alpha = 0.0

    @staticmethod
    def origins(weights: Sequence[Tensor], start: Start) -> Sequence[Tensor]:
        """Return the matrices that bank and private tensors are initialised from."""
        return weights

    @classmethod
    def for_readers(cls, readers: Sequence[Any], weights: Sequence[Tensor]) -> "list[SoftLinear]":
        """Return one soft layer for each of `readers`, whose matrices were `weights` (out x in)."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """Return the layer's matrix at this point of the schedule, out x in."""
        raise NotImplementedError

    @property
    def bias(self) -> Tensor | None:
        """Return the reader's bias."""
        return self.reader.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden @ weight.T + bias``: (..., in) -> (..., out)."""
        return nn.functional.linear(hidden, self.weight, self.bias)

    def distance(self) -> Tensor:
        """Return the mean squared difference of the layer's own matrix from the bank's."""
        return torch.zeros(())

    def hardened(self) -> SharedLinear:
        """Return the layer that remains after the schedule."""
        return self.reader


SCHEDULES: Registry[type[SoftLinear]] = Registry("schedule", declared=SOFTENINGS)


class OwnLinear(SoftLinear):
    """A layer with `own` weights (out x in) until the end of the schedule.

    Subclasses combine its own matrix and the bank's by one function.
    """

    def __init__(self, reader: SharedLinear, own: Tensor) -> None:
        super().__init__(reader)
        self.own = nn.Parameter(own.detach().clone(memory_format=torch.contiguous_format))

    @classmethod
    def for_readers(cls, readers: Sequence[Any], weights: Sequence[Tensor]) -> list[SoftLinear]:
        return [cls(reader, own) for reader, own in zip(readers, weights, strict=False)]

    @staticmethod
    def blend(own: Tensor, shared: Tensor, alpha: float) -> Tensor:
        """Return the layer's matrix from its own and the bank's (out x in), alpha in 0..1."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        return self.blend(self.own, self.reader.matrix, self.alpha)

    def distance(self) -> Tensor:
        return (self.own - self.reader.matrix).square().mean()


@SCHEDULES.register("interpolate")
class Interpolate(OwnLinear):
    """theta' = theta * alpha + theta' * (1 - alpha), theta the bank's and theta' the layer's"""

    @staticmethod
    def blend(own: Tensor, shared: Tensor, alpha: float) -> Tensor:
        return shared * alpha + own * (1 - alpha)


@SCHEDULES.register("replace")
class Replace(OwnLinear):
    """the bank's with probability alpha, else the layer's own (BERT-of-Theseus, 2002.02925)"""

    @staticmethod
    def blend(own: Tensor, shared: Tensor, alpha: float) -> Tensor:
        return shared if torch.rand(()) < alpha else own


@SCHEDULES.register("pull")
class Pull(OwnLinear):
    """the layer's own, pulled towards the bank's by the loss term `pull`, then the bank's"""

    @staticmethod
    def blend(own: Tensor, shared: Tensor, alpha: float) -> Tensor:
        return shared if alpha >= 1 else own


@SCHEDULES.register("untie")
class Untie(SoftLinear):
    """one matrix for all layers, then a private part a layer that starts from it (SWE, 2110.03848)

    All layers read the private tensors of `leader`; a layer's own come into use at the end.
    """

    def __init__(self, reader: SharedLinear, leader: SharedLinear) -> None:
        super().__init__(reader)
        self._leader = (leader,)

    @staticmethod
    def origins(weights: Sequence[Tensor], start: Start) -> Sequence[Tensor]:
        return [start(weights)] * len(weights)

    @classmethod
    def for_readers(cls, readers: Sequence[Any], weights: Sequence[Tensor]) -> list[SoftLinear]:
        return [cls(reader, readers[0]) for reader in readers]

    @property
    def weight(self) -> Tensor:
        return self._leader[0].matrix

    def hardened(self) -> SharedLinear:
        self.reader.start_from_(self._leader[0])
        return self.reader


def soft_layers(model: nn.Module) -> list[SoftLinear]:
    """Return the layers in transition."""
    return [module for module in model.modules() if isinstance(module, SoftLinear)]


def harden_(model: nn.Module) -> None:
    """End the schedule: make every layer read its bank as the plan says, and nothing else."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SoftLinear):
                setattr(parent, name, child.hardened())


class SoftToHard(TrainerCallback):
    """Raise alpha linearly over the first `until` (0..1) of training, then harden."""

    def __init__(self, until: float) -> None:
        self.until = until

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: object = None,
        **_: object,
    ) -> None:
        """Set alpha before an optimiser step."""
        alpha = state.global_step / max(1, self.until * state.max_steps)
        if alpha >= 1:
            harden_(model)
        for layer in soft_layers(model):
            layer.alpha = alpha
