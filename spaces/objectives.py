"""The measured numbers a study can compare: unit, direction, and when they are known."""

from dataclasses import dataclass
from typing import Literal

from spaces.registry import Registry

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Objective:
    """A measured number. `source` says when it is known: before training, by training the
    model, or after the search on a quiet device."""

    name: str
    title: str
    direction: Direction
    unit: str = ""
    source: Literal["exact", "trained", "quiet"] = "exact"


OBJECTIVES: Registry[Objective] = Registry("objective")

for _objective in (
    Objective("accuracy", "accuracy", "maximize", source="trained"),
    Objective("macro_f1", "macro-F1", "maximize", source="trained"),
    Objective("eval_loss", "evaluation loss", "minimize", "nats", source="trained"),
    Objective("calibration_error", "calibration error", "minimize", source="trained"),
    Objective("parameters", "parameters", "minimize"),
    Objective("stack_parameters", "parameters in the layer stack", "minimize"),
    Objective("bytes", "size on disk", "minimize", "B"),
    Objective("flops", "FLOPs of a forward pass", "minimize", "FLOP"),
    Objective("latency_ms", "latency", "minimize", "ms", source="quiet"),
):
    OBJECTIVES.register(_objective.name)(_objective)
