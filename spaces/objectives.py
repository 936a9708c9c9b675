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
    Objective("matthews", "Matthews correlation", "maximize", source="trained"),
    Objective("spearman", "Spearman correlation", "maximize", source="trained"),
    Objective("mean_squared_error", "mean squared error", "minimize", source="trained"),
    Objective("bleu", "BLEU", "maximize", "of 100", source="trained"),
    Objective("chrf", "chrF", "maximize", "of 100", source="trained"),
    Objective("perplexity", "perplexity", "minimize", source="trained"),
    Objective("entity_f1", "entity F1", "maximize", source="trained"),
    Objective("exact_match", "exact match", "maximize", source="trained"),
    Objective("answer_f1", "answer F1", "maximize", source="trained"),
    Objective("hit_rate_10", "hit rate at 10", "maximize", source="trained"),
    Objective("ndcg_10", "NDCG at 10", "maximize", source="trained"),
    Objective("eval_loss", "evaluation loss", "minimize", "nats", source="trained"),
    Objective("calibration_error", "calibration error", "minimize", source="trained"),
    Objective("parameters", "parameters", "minimize"),
    Objective("stack_parameters", "parameters in the layer stack", "minimize"),
    Objective("bytes", "size on disk", "minimize", "B"),
    Objective("flops", "FLOPs of a forward pass", "minimize", "FLOP"),
    Objective("latency_ms", "latency", "minimize", "ms", source="quiet"),
):
    OBJECTIVES.register(_objective.name)(_objective)
