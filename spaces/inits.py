"""Inits: how a bank's weights start from the pretrained weights of the layers that read it.

An init is one registered function from the layers' tensors (all of one shape, in layer
order) to the bank's. Only tensor methods are used, so this file needs no torch. Any layer of the
stack can be named by its number instead.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from sharetune.spaces.registry import Registry

INITS: Registry[Callable[[Sequence[Any]], Any]] = Registry("init")
"""Inits by name: functions from the layers' weights to the bank's."""


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


@INITS.register("stepwise")
def stepwise(weights: Sequence[Any]) -> Any:
    """several banks: copies of layers at equal steps through the depth (RRT, arXiv 2410.20672)"""
    return weights[0]


def step(bank: int, banks: int, layers: int) -> int:
    """Return the 0-based layer, of `layers`, that bank `bank` of `banks` starts from, stepwise.

    The first bank starts from the first layer and the last from the last one; between two layers
    at the same distance the lower one is taken.
    """
    steps = max(1, banks - 1)
    return (2 * bank * (layers - 1) + steps - 1) // (2 * steps)


def start_of(init: str | int, layers: Sequence[int]) -> Callable[[Sequence[Any]], Any]:
    """Return the function from the layers' weights to the bank's that `init` names.

    For a layer's number it copies that layer; the weights of one that is not among `layers` are
    expected last.
    """
    if isinstance(init, str):
        return INITS[init]
    return itemgetter(layers.index(init) if init in layers else -1)


def shortest_init(init: str | int, layers: Sequence[int]) -> str | int:
    """Return the canonical way to write `init` for a bank of `layers`: a word where one fits."""
    middle = layers[(len(layers) - 1) // 2]
    words: dict[str | int, str] = {layers[-1]: "last", middle: "middle", layers[0]: "first"}
    return words.get(middle if init == "middle" else init, init)
