"""Objectives: the measured numbers a study can compare, with unit, direction and scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from sharetune.spaces.registry import Registry

ROUNDING = 1e-9
"""Slack, in an objective's own unit, of comparisons: above float error, below any real gap."""

Direction = Literal["maximize", "minimize"]
"""Which values of an objective are better, in Optuna's words."""


@dataclass(frozen=True)
class Objective:
    """A measured number: name, unit, direction, scale, and when it is known.

    `source`: ``exact`` is known before training, ``trained`` by training the model, ``quiet`` by
    measuring on an otherwise idle device after the search. The hypervolume spans `worst` to
    `best`; by default 0 to 1, or 1 to 0 where less is better. `point` is the difference that
    people call one point (0.01 for accuracy); None: the objective is not given in points. With
    `in_percent` values in 0..1 are shown as 0..100 %.
    """

    name: str
    title: str
    direction: Direction
    unit: str = ""
    source: Literal["exact", "trained", "quiet"] = "exact"
    best: float | None = None
    worst: float | None = None
    point: float | None = None
    in_percent: bool = False

    def written(self) -> dict[str, Any]:
        """Return the objective as plain data, defaults left out."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Objective":
        """Read what :meth:`written` gives, also of a version that knows more keys."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in written.items() if key in known})

    @property
    def sign(self) -> float:
        """Return the factor, 1 or -1, by which values are multiplied so that less is better."""
        return -1.0 if self.direction == "maximize" else 1.0

    @property
    def ideal(self) -> float:
        """Return the best possible value, where the hypervolume's box ends."""
        return float(self.direction == "maximize") if self.best is None else self.best

    @property
    def useless(self) -> float:
        """Return a value that every useful model beats."""
        return float(self.direction == "minimize") if self.worst is None else self.worst

    def gain(self, value: Any, base: float) -> Any:
        """Return by how much a value, or each of an array, is better than `base`, in its unit."""
        return value - base if self.direction == "maximize" else base - value

    def near(self, value: object, base: float, points: float) -> Any:
        """Return whether a value, or each of an array, is at most `points` worse than `base`.

        For objectives that are not given in points, `points` is in percent of `base`.
        """
        margin = points * (abs(base) / 100 if self.point is None else self.point)
        return self.gain(value, base) >= -(margin + ROUNDING)


OBJECTIVES: Registry[Objective] = Registry("objective")
"""Objectives by name."""


def _trained(name: str, title: str, direction: Direction = "maximize", **scale: float) -> Objective:
    return Objective(name, title, direction, source="trained", **scale)  # type: ignore[arg-type]


def _fraction(name: str, title: str, direction: Direction = "maximize") -> Objective:
    return _trained(name, title, direction, point=0.01, in_percent=True)


for _objective in (
    _fraction("accuracy", "accuracy"),
    _fraction("macro_f1", "macro-F1"),
    _trained("matthews", "Matthews correlation", point=0.01),
    _trained("spearman", "Spearman correlation", point=0.01),
    _trained("mean_squared_error", "mean squared error", "minimize", worst=10.0),
    _trained("bleu", "BLEU", best=100.0, point=1.0),
    _trained("chrf", "chrF", best=100.0, point=1.0),
    _trained("perplexity", "perplexity", "minimize", best=1.0, worst=1000.0),
    _trained("byte_perplexity", "perplexity by byte", "minimize", best=1.0, worst=256.0),
    _trained("bits_per_byte", "bits per byte", "minimize", best=0.0, worst=8.0),
    _fraction("entity_f1", "entity F1"),
    _fraction("exact_match", "exact match"),
    _fraction("answer_f1", "answer F1"),
    _fraction("hit_rate_10", "hit rate at 10"),
    _fraction("ndcg_10", "NDCG at 10"),
    _fraction("word_error_rate", "word error rate", "minimize"),
    _fraction("character_error_rate", "character error rate", "minimize"),
    Objective("eval_loss", "evaluation loss", "minimize", "nats", source="trained", worst=10.0),
    _fraction("calibration_error", "calibration error", "minimize"),
    Objective("parameters", "parameters", "minimize"),
    Objective("stack_parameters", "parameters in the layer stack", "minimize"),
    Objective("bytes", "size on disk", "minimize", "B"),
    Objective("flops", "FLOPs of a forward pass", "minimize", "FLOP"),
    Objective("cache_bytes", "keys and values of a full-length example", "minimize", "B"),
    Objective("latency_ms", "latency", "minimize", "ms", source="quiet"),
    Objective("peak_memory", "peak memory of a use", "minimize", "B", source="quiet"),
):
    OBJECTIVES.register(_objective.name)(_objective)


PARAMETERS = OBJECTIVES["parameters"]
"""The objective that sizes are compared by."""

COSTS = tuple(OBJECTIVES[name] for name in ("parameters", "bytes", "flops", "latency_ms"))
"""Objectives that say what a model costs to store and to run, in the order they are shown."""


def quality_of(objectives: Sequence[Objective]) -> Objective:
    """Return the objective that says how good a model is.

    It is the first that is maximised, else the first measured by training, else the first.
    """
    maximised = (o for o in objectives if o.direction == "maximize")
    learnt = (o for o in objectives if o.source == "trained")
    return next(maximised, None) or next(learnt, objectives[0])
