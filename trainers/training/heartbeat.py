"""Tells that a training is alive."""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

Beat = Callable[[bool], None]
"""Told True when a step of a training begins, and False when it has ended."""


class Heart(TrainerCallback):
    """Beats around every optimiser step. What is measured between two steps is left out."""

    def __init__(self, beat: Beat) -> None:
        self.beat = beat

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Called by the Trainer before every optimiser step."""
        self.beat(True)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Called by the Trainer when a step is made, before rungs are measured."""
        self.beat(False)
