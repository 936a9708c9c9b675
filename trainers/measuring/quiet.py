"""Measure further numbers on a quiet device after the search, as latency is.

A new one is one registered function of a model and of one use of it, and an
:class:`sharetune.spaces.objectives.Objective` of the same name whose source is ``quiet``.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.registry import Registry
from sharetune.trainers.measuring.latency import Run, exclusive, time_in_turns
from sharetune.trainers.measuring.memory import memory_rise

WARMUP = 2
"""Rounds of writing that are not counted: the first calls allocate, and load kernels."""


@dataclass(frozen=True)
class Writing:
    """Writing as it is timed: `whole` writes `tokens`, two or more; `first` the first of them.

    Both read `read` tokens before that (None: what is read are no tokens), and run in turns for
    `rounds` rounds, by CUDA events where `cuda`.
    """

    whole: Run
    first: Run
    tokens: int
    read: int | None
    rounds: int
    cuda: bool = False

    @cached_property
    def medians(self) -> dict[str, float]:
        """The median milliseconds of ``whole`` and of ``first``, measured once."""
        runs = {"whole": self.whole, "first": self.first}
        times = time_in_turns(runs, rounds=self.rounds, warmup=WARMUP, cuda=self.cuda)
        return {name: float(np.median(own)) for name, own in times.items()}


@dataclass(frozen=True)
class Usage:
    """One use of a model as its task uses it, which a call does; `writing` where it writes text."""

    run: Run
    writing: Writing | None = None

    def __call__(self) -> object:
        """Use the model once."""
        return self.run()


QUIET: Registry[Callable[[PreTrainedModel, Usage], float]] = Registry(
    "quiet number", declared=OBJECTIVES
)
"""``(model, one use of it) -> number``; raises :class:`ModelError` where it cannot be measured."""


def quiet_numbers(model: PreTrainedModel, use: Usage) -> dict[str, float]:
    """Measure every registered number of `model`, by name, while no other is measured.

    What cannot be measured here is left out.
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


@QUIET.register("first_token_ms")
def first_token_ms(model: PreTrainedModel, use: Usage) -> float:
    """milliseconds until the first token is written, from a text of full length"""
    return _writing(use).medians["first"]


@QUIET.register("prefill_tokens_per_s")
def prefill_tokens_per_s(model: PreTrainedModel, use: Usage) -> float:
    """tokens read a second, until the first token is written"""
    writing = _writing(use)
    if writing.read is None:
        raise ModelError("what the model reads are no tokens", "look at first_token_ms")
    return 1000 * writing.read / writing.medians["first"]


@QUIET.register("decode_tokens_per_s")
def decode_tokens_per_s(model: PreTrainedModel, use: Usage) -> float:
    """tokens written a second after the first, with a cache"""
    writing = _writing(use)
    rest = writing.medians["whole"] - writing.medians["first"]
    if rest <= 0:
        raise ModelError("further tokens took no time that can be told", "time more rounds")
    return 1000 * (writing.tokens - 1) / rest


def _writing(use: Usage) -> Writing:
    if use.writing is None:
        raise ModelError("the task writes no text", "leave the number out")
    return use.writing
