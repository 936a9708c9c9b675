"""Measure a model at rungs of its training, where a search may stop it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from sharetune.spaces.errors import StoppedAtRung
from sharetune.trainers.training.data_parallel import led
from sharetune.trainers.training.resuming import Remembering
from sharetune.trainers.training.sharding import takes_part

Report = Callable[[int, dict[str, float]], bool]
"""Receives ``(rung, metrics)`` at each rung, counted from 0; returns whether to go on."""


@dataclass
class Rungs(Remembering):
    """A callback that measures and reports after each of `fractions` (0..1) of a training.

    Metrics are those of `measure` and ``step``. Raises :class:`StoppedAtRung` if `report` says
    not to go on. Training goes on as if it had not been measured: nothing here draws from the
    random generators. In a team only the leader measures and reports. A training that continues
    from a checkpoint reports again the rungs before it.
    """

    fractions: Sequence[float]
    measure: Callable[[Any], dict[str, float]]
    report: Report
    reached: dict[int, int] = field(default_factory=dict)
    reported: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Compute the step of each rung. Rungs that fall on one step, or the last, are one."""
        steps = {max(1, round(f * state.max_steps)): i for i, f in enumerate(self.fractions)}
        self.reached = {step: rung for step, rung in steps.items() if step < state.max_steps}
        for rung, metrics in self.reported:
            goes_on = led(partial(self.report, rung, metrics))
            _stop_unless(goes_on, rung, int(metrics["step"]))

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: object,
    ) -> None:
        """Measure and report at a rung. The Trainer calls this after every optimiser step."""
        rung = self.reached.get(state.global_step)
        if rung is None or model is None:
            return
        found = self.measure(model) if takes_part(model) else {}
        goes_on = led(lambda: self._reported(rung, found | {"step": state.global_step}))
        model.train()
        _stop_unless(goes_on, rung, state.global_step)

    def _reported(self, rung: int, metrics: dict[str, float]) -> bool:
        self.reported.append((rung, metrics))
        return self.report(rung, metrics)

    def memory(self) -> dict[str, Any]:
        return {"told": [(rung, _plain(metrics)) for rung, metrics in self.reported]}

    def recall(self, memory: dict[str, Any]) -> None:
        self.reported = memory["told"]


def _stop_unless(goes_on: object, rung: int, step: int) -> None:
    if not goes_on:
        raise StoppedAtRung(f"stopped at rung {rung}, step {step}")


def _plain(metrics: dict[str, float]) -> dict[str, float]:
    """Convert metrics to Python's own numbers, which a checkpoint can store."""
    return {name: v if isinstance(v, int) else float(v) for name, v in metrics.items()}
