"""Describe the sections of a study file: frozen pydantic models, each with its own checks."""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.evaluator import PREDICTIONS
from sharetune.spaces.forms import FORMS
from sharetune.spaces.objectives import Direction
from sharetune.spaces.settings import StrictModel

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""Golden ratio less 1: its multiples modulo 1, by which brackets are dealt, are spread evenly."""

MOST_TOGETHER = 1_024
"""Most cores of one worker, or workers of one trial."""


class Section(StrictModel):
    """Base of all sections of a study file: frozen, and unknown keys are mistakes."""


class Stagnation(Section):
    """Stop a search whose front stopped growing, by its hypervolume."""

    window: int = Field(
        20, ge=1, description="Last completed trials over which growth is measured."
    )
    gain: float = Field(
        0.001, ge=0, description="Growth, as a fraction of the hypervolume, up to which it stops."
    )


class Budget(Section):
    """When to start no more trials, and which candidates to refuse untrained.

    Trials that run when the budget is spent end as usual.
    """

    trials: int = Field(24, ge=1, description="Candidates to train, anchors included.")
    wall_hours: float | None = Field(
        None,
        gt=0,
        description="Hours during which any trial ran, pauses left out; `null` is no limit.",
    )
    cpu_hours: float | None = Field(
        None, gt=0, description="Core hours of all trials; `null` is no limit."
    )
    gpu_hours: float | None = Field(
        None, gt=0, description="GPU hours of all trials; `null` is no limit."
    )
    stagnation: Stagnation | None = Field(
        None, description="Growth of the front below which to stop; `null` is off."
    )
    max_parameters: float | None = Field(
        None, gt=0, description="Most stored parameters of a candidate; `null` is no limit."
    )
    max_bytes: float | None = Field(
        None, gt=0, description="Most bytes of a candidate's weights on disk; `null` is no limit."
    )
    max_flops: float | None = Field(
        None, gt=0, description="Most FLOPs of a forward pass; `null` is no limit."
    )
    max_latency_ms: float | None = Field(
        None,
        gt=0,
        description="Longest latency, in ms, of a candidate's untrained architecture, measured "
        "while no worker is busy; `null` is no limit.",
    )
    must_reach: dict[str, float] = Field(
        {},
        description="Numbers measured by training that a model must be at least as good as, by "
        "name; a trial that is worse is pruned when it ends. The unshared model need not.",
    )

    def limits(self) -> dict[str, float]:
        """Return the hard limits by the name of the exact objective they hold for."""
        limits = {
            "parameters": self.max_parameters,
            "bytes": self.max_bytes,
            "flops": self.max_flops,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


class EarlyStopping(Section):
    """Stop trainings that can no longer enter the front, by their metrics on the way.

    At each rung a training is measured, on the split that selects, and compared with the others
    that reached it (`early_stopping.py`).
    """

    rungs: tuple[float, ...] = Field(
        (),
        description="Fractions of a training, rising, at which it is measured and may be stopped; "
        "none turns early stopping off.",
    )
    eta: float = Field(
        3.0,
        gt=1,
        description="The best 1 / `eta` of all that reach a rung are never stopped there.",
    )
    brackets: int = Field(
        1,
        ge=1,
        description="Sets that trainings are dealt out to: set b (0-based) is not stopped before "
        "rung b, and gets `eta`^-b as many trainings as set 0.",
    )

    @field_validator("rungs")
    @classmethod
    def _rising_fractions(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < rung < 1 for rung in rungs) or list(rungs) != sorted(set(rungs)):
            raise ConfigError(
                f"rungs must be rising fractions of a training between 0 and 1, but got "
                f"{list(rungs)}",
                "write rungs: [0.125, 0.25, 0.5]",
            )
        return rungs

    @model_validator(mode="after")
    def _a_rung_for_each_bracket(self) -> "EarlyStopping":
        if self.brackets > max(1, len(self.rungs)):
            raise ConfigError(
                f"each bracket begins one rung later, but got {self.brackets} brackets and "
                f"{len(self.rungs)} rungs",
                f"write brackets: {max(1, len(self.rungs))} at most",
            )
        return self

    def first_rung(self, number: int) -> int:
        """Return the first rung (0-based) at which trial `number` may be stopped: its bracket.

        Brackets are dealt out by the golden ratio, so that each has its share of any few
        consecutive trials and a resumed study deals them out again in the same way.
        """
        sizes = [self.eta**-bracket for bracket in range(self.brackets)]
        place = (number * GOLDEN_RATIO) % 1.0 * sum(sizes)
        return sum(place >= end for end in accumulate(sizes[:-1]))


class Resources(Section):
    """Workers: how many run at once, the cores and GPUs each is given, and when one is ended.

    `workers`, `workers_per_trial`, `time_limit_s` and `heartbeat_s` apply to Ray workers only.
    """

    workers: int | None = Field(
        None,
        ge=1,
        description="Trials that run at once; `null`: as many as fit the cluster.",
    )
    workers_per_trial: int = Field(
        1,
        ge=1,
        le=MOST_TOGETHER,
        description="Workers that divide each batch of one trial among them.",
    )
    shard: bool = Field(
        False,
        description="Whether the workers of a trial also divide its weights, gradients and "
        "optimiser state among them (FSDP2), for what does not fit one GPU.",
    )
    cpu: int = Field(1, ge=1, le=MOST_TOGETHER, description="Cores of each worker.")
    gpu: Annotated[float, Field(ge=0)] | Literal["auto"] | None = Field(
        None,
        description="GPUs of each worker, 0 to 1: a fraction shares one; `auto`: as many workers "
        "share one as the memory of a first training allows; `null`: one where the cluster has "
        "any, else none.",
    )
    time_limit_s: float | None = Field(
        None,
        gt=0,
        description="Seconds after which a trial is ended and pruned; `null` is no limit.",
    )
    heartbeat_s: float | None = Field(
        None,
        gt=0,
        description="Seconds without a training step, or without a sign of life of the worker's "
        "process, after which a trial is ended and pruned; `null` is no limit.",
    )
    checkpoint_s: float | None = Field(
        300.0,
        ge=0,
        description="Seconds between checkpoints, from which another worker continues a training; "
        "`null` is none.",
    )

    @property
    def stated_gpu(self) -> float:
        """GPUs of each worker as far as a number says it, else 0."""
        return self.gpu if isinstance(self.gpu, float) else 0.0

    @model_validator(mode="after")
    def _a_gpu_for_each(self) -> "Resources":
        gpu = self.stated_gpu
        if gpu > 1:
            raise ConfigError(
                f"a worker uses one GPU at most, but got gpu={gpu:g}",
                f"write resources: {{workers_per_trial: {math.ceil(gpu)}, gpu: 1}}",
            )
        if 0 < gpu < 1 and self.workers_per_trial > 1:
            raise ConfigError(
                f"workers of one trial cannot share a GPU, but got gpu={gpu:g} and "
                f"workers_per_trial={self.workers_per_trial}",
                "write gpu: 1, or leave workers_per_trial out",
            )
        return self

    @model_validator(mode="after")
    def _several_to_shard_over(self) -> "Resources":
        if self.shard and self.workers_per_trial == 1:
            raise ConfigError(
                "shard divides a trial among its workers, but workers_per_trial is 1",
                "write resources: {workers_per_trial: 2, shard: true}, or more",
            )
        return self


class LatencyProtocol(Section):
    """Measuring latency after the trials, on the front and the anchors, against the unshared."""

    rounds: int = Field(
        40,
        ge=0,
        description="Rounds in which a model and the unshared one are timed in turns; 0 measures "
        "no latency.",
    )
    throughput: int | None = Field(
        None,
        ge=2,
        description="Examples of a batch that is timed as well; `null` is none.",
    )
    forms: tuple[str, ...] = Field(
        (),
        description="Export formats, one or a list, that each model is also timed in, by the "
        "runtime that the format is for.",
    )
    graphs: bool = Field(
        False, description="Whether a GPU replays CUDA graphs of the forward pass."
    )

    @model_validator(mode="before")
    @classmethod
    def _onnx_by_its_old_key(cls, given: Any) -> Any:
        """Read `onnx: true`, which studies had before there were `forms`."""
        if not isinstance(given, Mapping) or not isinstance(given.get("onnx"), bool):
            return given
        rest = {key: value for key, value in given.items() if key != "onnx"}
        return {"forms": ["onnx"]} | rest if given["onnx"] else rest

    @field_validator("forms", mode="before")
    @classmethod
    def _one_form(cls, names: object) -> Any:
        return (names,) if isinstance(names, str) else names


class Finalists(Section):
    """Retraining of the front's members and the anchors on further seeds, after the search."""

    seeds: int = Field(3, ge=2, description="Further seeds on which each finalist is trained.")
    most: int = Field(
        8,
        ge=0,
        description="Most finalists from the front; of more, some spread over it are taken. With 0 "
        "only anchors are finalists.",
    )
    longer: float = Field(
        1.0, ge=1, description="Length of a retraining, as a multiple of that in the search."
    )


class Scoring(Section):
    """Measuring single edits, untrained, before a search trains anything, to solve plans from.

    Only a pretrained model is scored: of random weights no edit keeps more than another.
    """

    tokens: int = Field(
        PREDICTIONS,
        ge=1,
        description="Predictions on training examples that each plan is measured by: tokens of a "
        "language model, else examples, of which 64 at most are taken.",
    )
    kinds: tuple[str, ...] | None = Field(
        None,
        description="Forms, one or a list, whose edits are scored; `null`: those of the space, and "
        "`drop`, `narrow` and `lowrank`, whose best plans the others must beat.",
    )
    seconds: float | None = Field(
        None,
        gt=0,
        description="Longest time for scoring single edits; `null`: for a fifth of what the "
        "budget's trainings cost, in examples that pass through the model.",
    )

    @field_validator("kinds", mode="before")
    @classmethod
    def _known_forms(cls, kinds: Any) -> Any:
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        for kind in kinds if isinstance(kinds, list | tuple) else ():
            FORMS.known(kind)
        return kinds


class StartFrom(Section):
    """Earlier studies whose fronts are trained first, right after the anchors and plans.

    Their candidates keep their plans and those keys of recipe and compression that this study
    searches too; all else is as this study says. They are read once, when the study begins.
    """

    runs: tuple[str, ...] = Field(
        min_length=1, description="Run folders of the earlier studies, one or a list."
    )
    most: int = Field(
        8,
        ge=1,
        description="Most candidates from each front; a larger one is thinned out evenly.",
    )

    @field_validator("runs", mode="before")
    @classmethod
    def _one_run(cls, runs: object) -> Any:
        return (runs,) if isinstance(runs, str) else runs


class OwnNumbers(Section):
    """Numbers that a function of one's own measures, as the Trainer's `compute_metrics` does.

    They are objectives like all others.
    """

    function: str = Field(
        description="The function as `module:name`; a module that is no installed one is also "
        "named under `plugins`."
    )
    numbers: dict[str, Direction] = Field(
        min_length=1, description="What it returns, by name: `maximize` or `minimize`."
    )
