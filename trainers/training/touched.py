"""Tell which parameters a plan has made or changed, and train those alone."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from weakref import ReferenceType, ref

import torch
from torch import nn
from transformers import PreTrainedModel

from sharetune.trainers.models.parameters import head_parameters

Known = list[tuple["ReferenceType[nn.Parameter]", bytes]]
"""Parameters, which this does not keep in memory, with a digest of their values."""


def known(model: nn.Module) -> Known:
    """Return the parameters of a model as they are now."""
    return [(ref(parameter), _digest(parameter)) for parameter in model.parameters()]


def untouched(model: PreTrainedModel, before: Known) -> list[nn.Parameter]:
    """Return the parameters that are those of `before`, unchanged, and none of a new head.

    The head of a model that writes comes with its checkpoint, and counts as any other part.
    """
    digests = {id(p): digest for there, digest in before if (p := there()) is not None}
    head = set() if model.can_generate() else head_parameters(model)
    return [
        parameter
        for name, parameter in model.named_parameters()
        if name not in head and digests.get(id(parameter)) == _digest(parameter)
    ]


def _digest(parameter: nn.Parameter) -> bytes:
    values = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
    return blake2b(values.numpy(), digest_size=16).digest()


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keep the parameters from being trained inside."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
