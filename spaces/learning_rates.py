"""Choose the factor of a bank's learning rate by the number of layers that read the bank.

A rule is one registered function of that number.
"""

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from sharetune.spaces.registry import Registry

LR_RULES: Registry[Callable[[int], float]] = Registry("learning rate rule")


@LR_RULES.register("none")
def unscaled(readers: int) -> float:
    """a bank learns like everything else"""
    return 1.0


@LR_RULES.register("sqrt")
def by_root(readers: int) -> float:
    """1 / sqrt(readers): what summed gradients of independent noise grow by"""
    return readers**-0.5


@LR_RULES.register("readers")
def by_readers(readers: int) -> float:
    """1 / readers: the mean of the readers' gradients, under plain gradient descent"""
    return 1 / readers


LRRuleName = Annotated[str, AfterValidator(LR_RULES.known)]
