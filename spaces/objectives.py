"""Objectives: the measured numbers a study can compare, with unit, direction and scale."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import exp, log
from typing import Any, Literal

from sharetune.spaces.registry import Registry

ROUNDING = 1e-9
"""Slack, in an objective's own unit, of comparisons: above float error, below any real gap."""

Direction = Literal["maximize", "minimize"]
"""Which values of an objective are better, in Optuna's words."""


MOST_NATS = 700.0
"""Largest loss in nats whose exponential is still a float."""


@dataclass(frozen=True)
class SumRatio:
    """How an objective follows from two sums over what it was measured on.

    `total` and `count` name the sums (`Scores.part_sums`), such as ``nats`` and ``predictions``.
    The objective is their quotient, or e to its power (``exp``), or a quotient of nats in ``bits``.
    """

    total: str
    count: str
    link: Literal["same", "exp", "bits"] = "same"

    def value(self, quotient: float) -> float:
        """Return the objective's value for a quotient of the sums."""
        if self.link == "exp":
            return exp(min(quotient, MOST_NATS))
        return quotient / log(2) if self.link == "bits" else quotient

    def quotient(self, value: float) -> float:
        """Return the quotient of the sums for a value of the objective, above 0 for ``exp``."""
        if self.link == "exp":
            return log(value)
        return value * log(2) if self.link == "bits" else value


@dataclass(frozen=True)
class Objective:
    """A measured number: name, unit, direction, scale, and when it is known.

    `source`: ``exact`` is known before training, ``trained`` by training the model, ``quiet`` by
    measuring on an otherwise idle device after the search. The hypervolume spans `worst` to
    `best`; by default 0 to 1, or 1 to 0 where less is better. `point` is the difference that
    people call one point (0.01 for accuracy); None: the objective is not given in points. With
    `in_percent` values in 0..1 are shown as 0..100 %. `ratio` says of which sums the objective is
    made, if of any; from them follow the intervals that reports show.
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
    ratio: SumRatio | None = None

    def written(self) -> dict[str, Any]:
        """Return the objective as plain data, defaults left out."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value != getattr(type(self), name, None)
        }

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Objective":
        """Read what :meth:`written` gives, also of a version that knows more keys."""
        known = {field.name for field in fields(cls)}
        own = {key: value for key, value in written.items() if key in known}
        if own.get("ratio"):
            own["ratio"] = SumRatio(**own["ratio"])
        return cls(**own)

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


NATS_A_PREDICTION = SumRatio("nats", "predictions")
"""The mean loss of what was predicted, examples or tokens."""


def _trained(name: str, title: str, direction: Direction = "maximize", **more: Any) -> Objective:
    return Objective(name, title, direction, source="trained", **more)


def _fraction(
    name: str, title: str, direction: Direction = "maximize", ratio: SumRatio | None = None
) -> Objective:
    return _trained(name, title, direction, point=0.01, in_percent=True, ratio=ratio)


def _loss(name: str, title: str, count: str, link: str, worst: float) -> Objective:
    """Return an objective made of the nats of a loss."""
    ratio = SumRatio("nats", count, link)  # type: ignore[arg-type]
    best = ratio.value(0.0)
    return _trained(name, title, "minimize", best=best, worst=worst, ratio=ratio)


for _objective in (
    _fraction("accuracy", "accuracy"),
    _fraction("macro_f1", "macro-F1"),
    _trained("matthews", "Matthews correlation", point=0.01),
    _trained("spearman", "Spearman correlation", point=0.01),
    _trained(
        "mean_squared_error",
        "mean squared error",
        "minimize",
        worst=10.0,
        ratio=SumRatio("squares", "predictions"),
    ),
    _trained("bleu", "BLEU", best=100.0, point=1.0),
    _trained("chrf", "chrF", best=100.0, point=1.0),
    _loss("perplexity", "perplexity", "predictions", "exp", 1000.0),
    _loss("byte_perplexity", "perplexity by byte", "bytes", "exp", 256.0),
    _loss("bits_per_byte", "bits per byte", "bytes", "bits", 8.0),
    _fraction("entity_f1", "entity F1"),
    _fraction("exact_match", "exact match", ratio=SumRatio("matches", "answers")),
    _fraction("answer_f1", "answer F1", ratio=SumRatio("word_f1", "answers")),
    _fraction("hit_rate_10", "hit rate at 10", ratio=SumRatio("hits", "users")),
    _fraction("ndcg_10", "NDCG at 10", ratio=SumRatio("gains", "users")),
    _fraction("word_error_rate", "word error rate", "minimize", SumRatio("word_errors", "words")),
    _fraction(
        "character_error_rate",
        "character error rate",
        "minimize",
        SumRatio("character_errors", "characters"),
    ),
    _trained(
        "eval_loss",
        "evaluation loss",
        "minimize",
        unit="nats",
        worst=10.0,
        ratio=NATS_A_PREDICTION,
    ),
    _fraction("calibration_error", "calibration error", "minimize"),
    Objective("parameters", "parameters", "minimize"),
    Objective("stack_parameters", "parameters in the layer stack", "minimize"),
    Objective("bytes", "size on disk", "minimize", "B"),
    Objective("flops", "FLOPs of a forward pass", "minimize", "FLOP"),
    Objective("cache_bytes", "keys and values of a full-length example", "minimize", "B"),
    Objective("latency_ms", "latency", "minimize", "ms", source="quiet"),
    Objective("peak_memory", "peak memory of a use", "minimize", "B", source="quiet"),
    Objective("first_token_ms", "time to first token", "minimize", "ms", source="quiet"),
    Objective("prefill_tokens_per_s", "prefill speed", "maximize", "tok/s", source="quiet"),
    Objective("decode_tokens_per_s", "decode speed", "maximize", "tok/s", source="quiet"),
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
