"""From soft to hard: layers keep weights of their own for a while, then only the bank's.

A schedule says how a layer's own weights and what the bank gives it make one matrix while
``alpha`` rises from 0 to 1 over the first part of training. Then the own weights are gone and
the model is the plan's, as small as it was counted.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spaces.registry import Registry
from trainers.modules import SharedLinear

Schedule = Callable[[Tensor, Tensor, float], Tensor]
"""``(own, shared, alpha) -> the layer's matrix``, all out x in, alpha in 0..1."""

SCHEDULES: Registry[Schedule] = Registry("schedule")


@SCHEDULES.register("interpolate")
def interpolate(own: Tensor, shared: Tensor, alpha: float) -> Tensor:
    """theta' = theta * alpha + theta' * (1 - alpha), theta the bank's and theta' the layer's"""
    return shared * alpha + own * (1 - alpha)


@SCHEDULES.register("replace")
def replace(own: Tensor, shared: Tensor, alpha: float) -> Tensor:
    """the bank's with probability alpha, else the layer's own (BERT-of-Theseus, 2002.02925)"""
    return shared if torch.rand(()) < alpha else own


@SCHEDULES.register("pull")
def pull(own: Tensor, shared: Tensor, alpha: float) -> Tensor:
    """the layer's own, which the loss term `pull` draws to the bank, then the bank's"""
    return shared if alpha >= 1 else own


class SoftLinear(nn.Module):
    """A linear layer on its way from `own` weights (out x in) to those of `reader`."""

    def __init__(self, reader: SharedLinear, own: Tensor, schedule: str) -> None:
        super().__init__()
        self.reader = reader
        self.own = nn.Parameter(own.detach().clone(memory_format=torch.contiguous_format))
        self.schedule = schedule
        self.alpha = 0.0

    @property
    def weight(self) -> Tensor:
        """The layer's matrix at this point of the schedule, out x in."""
        return SCHEDULES[self.schedule](self.own, self.reader.weight, self.alpha)

    @property
    def bias(self) -> Tensor | None:
        """The reader's bias."""
        return self.reader.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """``hidden @ weight.T + bias``: (..., in) -> (..., out)."""
        return nn.functional.linear(hidden, self.weight, self.bias)

    def distance(self) -> Tensor:
        """Mean square of what separates the own weights from the bank's."""
        return (self.own - self.reader.weight).square().mean()


def soft_layers(model: nn.Module) -> list[SoftLinear]:
    """The layers that still have weights of their own."""
    return [module for module in model.modules() if isinstance(module, SoftLinear)]


def harden_(model: nn.Module) -> None:
    """Ends the schedule: every layer reads its bank and nothing else."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SoftLinear):
                setattr(parent, name, child.reader)


class SoftToHard(TrainerCallback):
    """Raises alpha linearly over the first `until` (0..1) of training, then hardens."""

    def __init__(self, until: float) -> None:
        self.until = until

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Called by the Trainer before every optimiser step."""
        alpha = state.global_step / max(1, self.until * state.max_steps)
        if alpha >= 1:
            harden_(model)
        for layer in soft_layers(model):
            layer.alpha = alpha
