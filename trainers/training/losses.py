"""Terms added to the task's loss. Each is one registered function and one key of the recipe.

A term is built once, before the first step, by ``(model, strength)``, and called at every step
for a scalar; only where the recipe's key of the same name is above zero.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sharetune.spaces.registry import Registry
from sharetune.trainers.models.parameters import bank_parameters
from sharetune.trainers.models.softening import soft_layers
from sharetune.trainers.training.sharding import whole

Term = Callable[[], Tensor]
LOSSES: Registry[Callable[[nn.Module, float], Term]] = Registry("loss")


@LOSSES.register("bank_l2")
def bank_l2(model: nn.Module, strength: float) -> Term:
    """strength / 2 * the sum of squares of all shared weights"""

    def term() -> Tensor:
        return strength / 2 * _sum(p.square().sum() for p in bank_parameters(model))

    return term


@LOSSES.register("bank_l2_start")
def bank_l2_start(model: nn.Module, strength: float) -> Term:
    """strength / 2 * the sum of squares of shared weights less their start (L2-SP, 1802.01483)"""
    starts = [whole(p.detach()).clone().to(p.device) for p in bank_parameters(model)]

    def term() -> Tensor:
        pairs = zip(bank_parameters(model), starts, strict=True)
        return strength / 2 * _sum((p - start).square().sum() for p, start in pairs)

    return term


@LOSSES.register("pull")
def pull(model: nn.Module, strength: float) -> Term:
    """strength * the mean square between layers' own weights and the bank's, summed"""
    return lambda: strength * _sum(layer.distance() for layer in soft_layers(model))


def consistency(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean of both KL divergences between two passes' logits (batch, classes), in nats.

    It is the mean over examples (R-Drop, arXiv 2106.14448).
    """
    p, q = functional.log_softmax(one.float(), -1), functional.log_softmax(other.float(), -1)
    there = functional.kl_div(p, q, log_target=True, reduction="batchmean")
    return (there + functional.kl_div(q, p, log_target=True, reduction="batchmean")) / 2


def _sum(numbers: Iterable[Tensor]) -> Tensor:
    found = list(numbers)
    return torch.stack(found).sum() if found else torch.zeros(())
