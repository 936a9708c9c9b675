"""Measure further numbers on a quiet device after the search, as latency is.

A new one is one registered function of a model and of one use of it, and an
:class:`sharetune.spaces.objectives.Objective` of the same name whose source is ``quiet``.
"""

from collections.abc import Callable
from contextlib import suppress

import torch
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.registry import Registry
from sharetune.trainers.measuring.latency import Run, exclusive
from sharetune.trainers.measuring.memory import memory_rise

QUIET: Registry[Callable[[PreTrainedModel, Run], float]] = Registry(
    "quiet number", declared=OBJECTIVES
)
"""``(model, one use of it) -> number``; raises :class:`ModelError` where it cannot be measured."""


def quiet_numbers(model: PreTrainedModel, use: Run) -> dict[str, float]:
    """Measure every registered number of `model`, by name, while no other is measured.

    `use` uses the model once. What cannot be measured here is left out.
    """
    found = {}
    with torch.inference_mode(), exclusive(model.device):
        for name, measure in QUIET.items():
            with suppress(ModelError):
                found[name] = float(measure(model, use))
    return found


@QUIET.register("peak_memory")
def peak_memory(model: PreTrainedModel, use: Run) -> float:
    """bytes by which memory rises at most during one use: of the GPU, else resident memory"""
    use()  # what a first use leaves behind, such as kernels' workspaces, is no part of a use
    return memory_rise(model.device, use)
