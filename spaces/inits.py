"""How a bank's weights start from the pretrained weights of the layers that will read it.

An init is one registered function from the layers' tensors (all of one shape, in layer
order) to the bank's. Only tensor methods are used, so this file needs no torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

from spaces.registry import Registry

INITS: Registry[Callable[[Sequence[Any]], Any]] = Registry("init")


@INITS.register("first")
def first(weights: Sequence[Any]) -> Any:
    """a copy of the first layer's weights"""
    return weights[0]


@INITS.register("middle")
def middle(weights: Sequence[Any]) -> Any:
    """a copy of the middle layer's weights, the lower one of two"""
    return weights[(len(weights) - 1) // 2]


@INITS.register("last")
def last(weights: Sequence[Any]) -> Any:
    """a copy of the last layer's weights"""
    return weights[-1]


@INITS.register("mean")
def mean(weights: Sequence[Any]) -> Any:
    """the mean of all layers' weights"""
    return sum(weights[1:], start=weights[0]) / len(weights)
