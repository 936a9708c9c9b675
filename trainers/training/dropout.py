"""Set every dropout of a model to one rate, wherever the model keeps it."""

import re

from torch import nn

RATE_WORD = re.compile(r"(^|_)dropout(_p|_prob)?$|^(attention|hidden|activation)_dropout$")
"""Names under which the library's modules keep dropout rates as numbers."""


def set_dropout_(model: nn.Module, rate: float) -> None:
    """Set all dropout rates of `model` in place to `rate` (0..1, 1 excluded).

    Modules hold theirs as ``nn.Dropout``, or as a number that they hand to a function.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name, value in vars(module).items():
            if isinstance(value, float) and RATE_WORD.search(name):
                setattr(module, name, rate)
