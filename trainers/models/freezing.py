"""Keep frozen what was frozen: a tensor is trained only if one that it was made of was."""

from collections.abc import Sequence
from typing import Any

from torch import nn

BIASES = ("bias", "own_bias")
"""Names of the parameters of a reader, or of a bank's entry, that are made of biases."""


def keep_frozen_(
    readers: Sequence[nn.Module], bank: nn.ModuleDict, key: str, sources: Sequence[Any]
) -> None:
    """Freeze the tensors of `readers` and of the entry `key` of `bank` whose sources are frozen.

    `sources` are the matrices that were replaced, of the readers in their order and perhaps more.
    """
    for reader, source in zip(readers, sources, strict=False):
        _freeze(reader, [source])
    if key in bank:
        _freeze(bank[key], sources)


def _freeze(module: nn.Module, sources: Sequence[Any]) -> None:
    weights = any(source.weight.requires_grad for source in sources)
    biases = any(s.bias is not None and s.bias.requires_grad for s in sources)
    for name, parameter in module.named_parameters():
        trained = biases if name.rpartition(".")[2] in BIASES else weights
        parameter.requires_grad_(trained and parameter.is_floating_point())
