"""Build the ordinary model that a saved configuration and weights give, and compare with it."""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.models.listed_config import LISTS, plain_class
from sharetune.trainers.models.sample_inputs import fitting_sample
from sharetune.trainers.models.structure import find_stacks

SAME_OUTPUT = 1e-3
"""The largest difference of outputs, relative to the largest output, that rounding makes."""


def uniform(model: PreTrainedModel) -> bool:
    """Return whether all layers of each stack are of one width, that of the configuration.

    A model whose drops left one layer in each stack has no two layers that could differ.
    """
    try:
        stacks = find_stacks(model)
    except ModelError:
        return True
    if not all(stack.shape.is_uniform for stack in stacks.values()):
        return False
    with torch.device("meta"):
        built = find_stacks(_fresh(model))
    shapes = {name: stack.shape for name, stack in built.items() if stack.shape.is_uniform}
    return all(
        stack.shape.at([0]) == shapes[name].at([0])
        for name, stack in stacks.items()
        if name in shapes
    )


def ordinary(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model built anew from the configuration of a dense `model`, with its tensors.

    Raises :class:`RuntimeError` if the tensors do not fit.
    """
    built = _fresh(model)
    built.load_state_dict(model.state_dict(), strict=True, assign=True)
    built.tie_weights()
    return built.to(model.device).eval()


def _fresh(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model built anew from the configuration of `model`."""
    kind: Any = type(model)
    return kind._from_config(plain_class(model.config)(**_plain(model)))  # type: ignore[no-any-return]


def _plain(model: PreTrainedModel) -> dict[str, Any]:
    """Return the configuration as a file would give it back."""
    settings = copy.deepcopy(model.config.to_dict())
    return {n: value for n, value in settings.items() if n not in ("model_type", LISTS)}


def largest_difference(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """Return the largest difference of the models' outputs on a batch, as part of the largest."""
    found, expected = (_output(model) for model in (one, other))
    difference = (found - expected).abs().nan_to_num().max()
    return float(difference / expected.abs().nan_to_num().max().clamp_min(1e-9))


def _output(model: PreTrainedModel) -> Tensor:
    """Return the model's logits, or its first output, for a made-up batch."""
    was_training = model.training
    inputs = fitting_sample(model)
    with torch.no_grad():
        output = model.eval()(**inputs)
    model.train(was_training)
    logits = getattr(output, "logits", None)
    found: Tensor = output[0] if logits is None else logits
    return found.float()
