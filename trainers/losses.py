"""Terms added to the task's loss. Each is one registered function and one key of the recipe.

A term ``(model, strength) -> scalar`` is computed only where the recipe's key of the same
name is above zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spaces.registry import Registry
from trainers.schedules import soft_layers

LOSSES: Registry[Callable[[nn.Module, float], Tensor]] = Registry("loss")


@LOSSES.register("bank_l2")
def bank_l2(model: nn.Module, strength: float) -> Tensor:
    """strength / 2 * the sum of squares of all shared weights"""
    squares = [parameter.square().sum() for parameter in bank_parameters(model)]
    return strength / 2 * torch.stack(squares).sum() if squares else torch.zeros(())


@LOSSES.register("pull")
def pull(model: nn.Module, strength: float) -> Tensor:
    """strength * the mean square between layers' own weights and the bank's, summed"""
    distances = [layer.distance() for layer in soft_layers(model)]
    return strength * torch.stack(distances).sum() if distances else torch.zeros(())


def bank_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that several layers read; none for an unshared model."""
    return list(model.banks.parameters()) if hasattr(model, "banks") else []
