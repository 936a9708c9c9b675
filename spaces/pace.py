"""How long trainings take and how much memory they need, measured before a study's first trial."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace

from sharetune.spaces.recipe import Recipe


@dataclass(frozen=True)
class Pace:
    """Seconds and bytes of training the unshared model by a study's recipe, on two batches.

    `load_s` seconds to load the model, `step_s` seconds of an optimiser step, `judge_s` seconds to
    measure one example, and `memory`, the bytes that the process, or its GPU, held at most, of
    which `held` are the same for batches of any size. `gpus` GPUs of `gpu_memory` bytes each are
    what trials can run on; none where they run on processors.
    """

    load_s: float
    step_s: float
    judge_s: float
    memory: int
    held: int = 0
    gpus: int = 0
    gpu_memory: int = 0

    @classmethod
    def slowest(cls, paces: Iterable["Pace"]) -> "Pace":
        """Return the most seconds and bytes of trainings that ran at once."""
        return cls(*map(max, zip(*map(astuple, paces), strict=True)))

    def of_batch(self, share: float) -> "Pace":
        """Return the pace of batches of `share` (above 0) times the examples."""
        varying = max(0, self.memory - self.held)
        memory = self.memory - round((1 - share) * varying)
        return replace(self, step_s=self.step_s * share, memory=memory)

    def trial_s(self, recipe: Recipe, rows: Mapping[str, int]) -> float:
        """Return the seconds of an unshared trial; `rows` count each split's examples."""
        return self.step_s * steps_of(recipe, rows) + self.besides_s(rows)

    def besides_s(self, rows: Mapping[str, int]) -> float:
        """Return the seconds of a trial without its steps.

        A trained model is saved in about the time that one is loaded.
        """
        return 2 * self.load_s + self.judge_s * rows.get("validation", rows.get("test", 0))


def steps_of(recipe: Recipe, rows: Mapping[str, int]) -> int:
    """Return the optimiser steps of a training."""
    if recipe.steps is not None:
        return recipe.steps
    examples = rows.get("train", 0)
    return math.ceil(recipe.passes(examples) * examples / recipe.batch_size)
