"""Report to a watchdog that a training makes progress."""

from collections.abc import Callable

from transformers import TrainerCallback

Beat = Callable[[bool], None]
"""Receives True when a step of a training begins, and False when it has ended."""


class Heart(TrainerCallback):
    """A callback that beats before and after every optimiser step, but not between steps.

    Measurements at rungs, which lie between two steps, thus count towards neither.
    """

    def __init__(self, beat: Beat) -> None:
        self.beat = beat

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Report that a step begins. The Trainer calls this before every optimiser step."""
        self.beat(True)

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        """Report that a step has ended. The Trainer calls this before rungs are measured."""
        self.beat(False)
