"""Read the study file: YAML into pydantic models, all mistakes listed at once with their place."""

import math
from collections.abc import Mapping
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sharetune.results.reading.location import checked_url
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.compression import known_quantisation
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.evaluator import PREDICTIONS
from sharetune.spaces.forms import FORMS
from sharetune.spaces.harness import HarnessSettings, harness_numbers
from sharetune.spaces.objectives import OBJECTIVES, Direction, Objective
from sharetune.spaces.paths import SUFFIXES, expanded
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.plugins import load_plugins
from sharetune.spaces.recipe import SEEDS
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.settings import StrictModel, one_door, read_settings, reason
from sharetune.spaces.space import Space
from sharetune.spaces.texts import shortened, shown
from sharetune.spaces.yaml_text import read_yaml, refuse_unplain

FIXED = (
    *(
        "model",
        "task",
        "metric",
        "lm_eval",
        "objectives",
        "space",
        "anchors",
        "plans",
        "seed",
        "sampler",
    ),
    "storage",
)
"""Keys that a resumed study must not change: its trials would no longer be comparable."""

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""Golden ratio less 1: its multiples modulo 1, by which brackets are dealt, are spread evenly."""

WRITES_ONE = "`sharetune init` writes one for your model and data"
"""Hint where a study file is missing or empty."""

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
        ge=1,
        description="Most finalists from the front; of more, some spread over it are taken.",
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


class StudyConfig(Section):
    """One study, as its file describes it. Paths are relative to the file."""

    _folder: Path | None = PrivateAttr(None)

    name: str = Field(
        min_length=1,
        description="Name of the study; by default the file's, or its folder's for `study.yaml`.",
    )
    plugins: tuple[str, ...] = Field(
        (),
        description="Modules that register what the rest of the file names: files beside the study "
        "file, or installed modules.",
    )
    model: str = Field(description="Hub name or folder of the pretrained model.")
    task: dict[str, Any] = Field(
        description="The task: `name`, as `sharetune list tasks` has it, and that task's keys."
    )
    metric: OwnNumbers | None = Field(
        None, description="A function of one's own that measures models too; `null` is none."
    )
    lm_eval: HarnessSettings = Field(
        HarnessSettings(), description="How tasks of lm-evaluation-harness are done."
    )
    space: Space = Field(description="Ranges from which candidates are drawn.")
    objectives: tuple[str, ...] = Field(
        ("accuracy", "parameters", "flops"),
        description="Objectives to search by, as `sharetune list objectives` has them.",
    )
    budget: Budget = Field(
        Budget(), description="When to start no more trials, and which candidates to refuse."
    )
    early_stopping: EarlyStopping = Field(
        EarlyStopping(), description="Rungs at which hopeless trainings are stopped."
    )
    resources: Resources = Field(Resources(), description="Workers, their cores and their GPUs.")
    latency: LatencyProtocol = Field(
        LatencyProtocol(), description="How latency is measured after the trials."
    )
    finalists: Finalists | None = Field(
        None, description="Retraining on further seeds after the search; `null` is none."
    )
    anchors: tuple[str, ...] = Field(
        tuple(ANCHORS), description="Reference candidates that are trained before all others."
    )
    plans: tuple[SharingPlan, ...] = Field(
        (), description="Plans, or presets' names, that are trained right after the anchors."
    )
    scoring: Literal["auto", "off"] | Scoring = Field(
        "auto",
        description="Whether single edits of a pretrained model are scored first, and plans solved "
        "from the scores trained right after the unshared model: `auto`, `off`, or these keys.",
    )
    start_from: StartFrom | None = Field(
        None, description="Earlier studies whose fronts are trained next; `null` is none."
    )
    sampler: str | dict[str, Any] = Field(
        "auto",
        description="Sampler that proposes candidates, as `sharetune list samplers` has it; `auto` "
        "chooses by the budget. Also a class of Optuna's by name, or one's own by its dotted path, "
        "with arguments as `{GPSampler: {n_startup_trials: 10}}`, and OptunaHub's, as "
        "`{hub: {package: samplers/auto_sampler}}`.",
    )
    executor: Literal["ray", "local"] = Field(
        "ray", description="Where trials run: on `ray` workers, or in this one process (`local`)."
    )
    keep: Literal["front", "all", "none"] = Field(
        "front",
        description="Trials, besides the anchors, whose weights are kept: those on the `front`, "
        "`all` that complete, or `none`.",
    )
    number_formats: tuple[str, ...] = Field(
        (),
        description="Quantisations, one or a list, in which each trained model is measured once "
        "more: its loss by number format.",
    )
    tracking: tuple[str, ...] = Field(
        (), description="Experiment trackers that trainings write to, one name or a list."
    )
    exports: tuple[str, ...] = Field(
        (),
        description="Formats, one or a list, that models must be exportable to: a space whose "
        "compression rules one out is refused.",
    )
    storage: str | None = Field(
        None,
        description="URL of a PostgreSQL database, without a password, that holds the study; "
        "`null`: a file in the run folder.",
    )
    seed: int = Field(0, ge=0, lt=SEEDS, description="Seed of the sampler.")

    @model_validator(mode="before")
    @classmethod
    def _with_plugins(cls, data: Any, info: ValidationInfo) -> Any:
        """Imports the plugins first, so that what they register is known to every key."""
        names = data.get("plugins") if isinstance(data, dict) else None
        if isinstance(names, str):
            names = [names]
        if not names or not isinstance(names, list | tuple):
            return data
        folder = (info.context or {}).get("folder")
        return {**data, "plugins": load_plugins(names, folder)}

    @model_validator(mode="before")
    @classmethod
    def _with_own_numbers(cls, data: object) -> Any:
        """Registers the objectives that `metric` measures, so that the other keys may name them."""
        metric = data.get("metric") if isinstance(data, dict) else None
        if metric is not None:
            read = OwnNumbers.model_validate(metric)
            for name, direction in read.numbers.items():
                register_own(name, direction)
        return data

    @model_validator(mode="before")
    @classmethod
    def _with_harness_numbers(cls, data: object, info: ValidationInfo) -> Any:
        """Registers the objectives that tasks of lm-evaluation-harness are."""
        if not isinstance(data, dict):
            return data
        settings = HarnessSettings.model_validate(data.get("lm_eval") or {})
        numbers = harness_numbers(_named_numbers(data), settings.tasks)
        if numbers:
            from sharetune.trainers.tasks.harness import register_numbers

            folder = (info.context or {}).get("folder") or Path()
            register_numbers(_looked_up(settings, folder), numbers)
        return data

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if known_objective(name).source == "quiet":
                raise ConfigError(
                    f"{name} is measured on a quiet device after the trials, so it cannot "
                    "guide them",
                    "search with flops; the report shows it all the same",
                )
        if len(set(names)) < len(names) or not names:
            raise ConfigError(
                f"objectives must be different and at least one, but got {list(names)}",
                did_you_mean("", list(OBJECTIVES)),
            )
        return names

    @model_validator(mode="after")
    def _known_limits(self) -> "StudyConfig":
        for name in self.budget.must_reach:
            if known_objective(name).source != "trained":
                raise ConfigError(
                    f"budget.must_reach is for numbers measured by training, but {name} is "
                    f"{known_objective(name).source}",
                    f"write max_{name}, which refuses candidates before they are trained",
                )
        return self

    @property
    def harness(self) -> tuple[str, ...]:
        """The numbers of lm-evaluation-harness that trained models are measured by."""
        named = (*self.objectives, *self.budget.must_reach)
        return harness_numbers(named, self.lm_eval.tasks)

    @model_validator(mode="after")
    def _several_workers_need_ray(self) -> "StudyConfig":
        if self.executor != "local":
            return self
        if self.resources.workers_per_trial > 1:
            raise ConfigError(
                "executor: local is one process, but resources.workers_per_trial is "
                f"{self.resources.workers_per_trial}",
                "leave executor out, or workers_per_trial",
            )
        if self.resources.gpu is not None:
            raise ConfigError(
                "executor: local takes the GPU that its process sees, but resources.gpu is "
                f"{self.resources.gpu}",
                "leave gpu out and set CUDA_VISIBLE_DEVICES for the process, or leave executor out",
            )
        return self

    @model_validator(mode="after")
    def _latency_can_be_measured(self) -> "StudyConfig":
        if self.budget.max_latency_ms is not None and not self.latency.rounds:
            raise ConfigError(
                "budget.max_latency_ms needs latency to be measured, but latency.rounds is 0",
                "write latency: {rounds: 20}",
            )
        return self

    @model_validator(mode="after")
    def _sampler_can_be_used(self) -> "StudyConfig":
        if self.sampler != "auto":
            from sharetune.search.samplers.base import Setting, make_sampler

            objectives = tuple(known_objective(name) for name in self.objectives)
            reference = {objective.name: objective.useless for objective in objectives}
            setting = Setting(objectives, self.seed, self.budget.trials, reference)
            make_sampler(self.sampler, setting)
        return self

    @property
    def folder(self) -> Path | None:
        """The absolute folder of the study file; None for a study without one."""
        return self._folder

    @field_validator("scoring", mode="before")
    @classmethod
    def _as_yaml_reads_it(cls, scoring: Any) -> Any:
        """Returns the word for what YAML 1.1 reads ``off`` and ``on`` as."""
        return {False: "off", True: "auto"}[scoring] if isinstance(scoring, bool) else scoring

    @field_validator("task", "sampler")
    @classmethod
    def _finite_numbers(cls, given: Any) -> Any:
        with one_door("a value", ConfigError, "write it as YAML has it"):
            refuse_unplain(given)
        return given

    @field_validator("plans", mode="before")
    @classmethod
    def _presets_by_name(cls, plans: object) -> Any:
        if not isinstance(plans, list | tuple):
            return plans
        return tuple(SharingPlan.preset(p) if isinstance(p, str) else p for p in plans)

    @field_validator("tracking", "exports", "number_formats", mode="before")
    @classmethod
    def _one_name(cls, names: object) -> Any:
        return (names,) if isinstance(names, str) else names

    @field_validator("number_formats")
    @classmethod
    def _known_formats(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(known_quantisation, names))

    @field_validator("storage")
    @classmethod
    def _without_password(cls, url: str | None) -> str | None:
        return None if url is None else checked_url(url)

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, choice: str | dict[str, Any]) -> str | dict[str, Any]:
        if choice != "auto":
            from sharetune.search.samplers.base import maker_of

            maker_of(choice)
        return choice

    @field_validator("anchors")
    @classmethod
    def _known_anchors(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            ANCHORS[name]
        return names

    @property
    def scores(self) -> Scoring | None:
        """The settings for scoring edits before the search; None where `scoring` is off."""
        if isinstance(self.scoring, Scoring):
            return self.scoring
        return Scoring() if self.scoring == "auto" else None


def _named_numbers(data: Mapping[str, Any]) -> list[object]:
    """Return the names of objectives and of limits in a study's plain data."""
    budget, objectives = data.get("budget"), data.get("objectives")
    limits = budget.get("must_reach") if isinstance(budget, dict) else None
    found = [*objectives] if isinstance(objectives, list | tuple) else []
    return [*found, *limits] if isinstance(limits, dict) else found


def _looked_up(settings: HarnessSettings, folder: Path) -> HarnessSettings:
    """Return the settings with the folder of task files looked up from the study file."""
    if settings.include is None:
        return settings
    include = str((folder / expanded(settings.include)).resolve())
    return settings.model_copy(update={"include": include})


def register_own(name: str, direction: Direction) -> None:
    """Register the objective `name` that a function of one's own measures.

    Raises :class:`ConfigError` if another objective has that name.
    """
    own = Objective(name, name.replace("_", " "), direction, source="trained")
    known = known_objective(name) if name in OBJECTIVES else OBJECTIVES.register(name)(own)
    if (known.source, known.direction) != (own.source, own.direction):
        raise ConfigError(
            f"the metric's number {name} cannot be {direction}d: there is an objective of that "
            f"name, {known.direction}d and {known.source}",
            "let the function return it under another name",
        )


def known_objective(name: str) -> Objective:
    """Look up the objective `name`, which the file of a task may have registered.

    Raises :class:`ConfigError` if there is none."""
    if name not in OBJECTIVES:
        from sharetune.trainers.tasks.base import TASKS

        TASKS.complete()
    return OBJECTIVES[name]


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Read the study file at `path` and apply ``key.key=value`` overrides.

    Raises :class:`ConfigError` that lists every mistake with its place in the file.
    """
    data = read_study_file(path)
    for each in overrides:
        override(data, each)
    data.setdefault("name", path.stem if path.stem != "study" else path.resolve().parent.name)
    config = validate(data, str(path), path.resolve().parent)
    located = config.model_copy(update=_absolute_paths(config, path.resolve().parent))
    located._folder = path.resolve().parent
    return located


def validate(data: Mapping[str, object], source: str, folder: Path | None = None) -> StudyConfig:
    """Validate `data` as a study, whose plugins may lie in `folder`.

    Raises :class:`ConfigError` that lists every mistake.
    """
    return read_settings(StudyConfig, data, source, folder=folder)


def read_study_file(path: Path) -> dict[str, Any]:
    """Read a study file as plain data. Raises :class:`ConfigError` if it is not one."""
    try:
        data = read_yaml(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no such study file: {path}", WRITES_ONE) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        read = " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")
        text = shortened(read, 400)
        raise ConfigError(f"{path} is not YAML in UTF-8: {text}", "check that line") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "name a file") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no keys", WRITES_ONE)
    return data


def override(data: dict[str, Any], setting: str) -> None:
    """Set one key of `data` by a text such as ``budget.trials=8``.

    Raises :class:`ConfigError` if the text is none or its place is not a section.
    """
    place, equals, value = setting.partition("=")
    if not equals or not all(place.split(".")):
        raise ConfigError(
            f"--set needs key=value, but got {shown(setting)}", "--set budget.trials=8"
        )
    *sections, key = place.split(".")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            raise ConfigError(
                f"--set {shortened(setting)}: {shortened(section)} is not a section",
                "check the key",
            )
    try:
        data[key] = read_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {shortened(setting)}: {shown(value)} is not YAML: {reason(error)}",
            "close its brackets and quotes",
        ) from None


def _absolute_paths(config: StudyConfig, folder: Path) -> dict[str, Any]:
    """Return the keys that name files or folders next to the study file, with absolute paths.

    Data are read here and reach workers through the run folder. Each machine looks for the model
    itself, so environment variables in its path are kept.
    """

    def absolute(value: Any) -> Any:
        value = expanded(value) if isinstance(value, str) else value
        looks_like_path = isinstance(value, str) and ("/" in value or "." in value)
        candidate = folder / value if looks_like_path else None
        is_file = candidate is not None and (
            candidate.exists() or candidate.suffix in SUFFIXES or bool(glob(str(candidate)))
        )
        return str(candidate.resolve()) if candidate is not None and is_file else value

    task = {key: absolute(value) for key, value in config.task.items()}
    local = folder / config.model
    start = config.start_from
    if start is not None:
        runs = tuple(str((folder / expanded(run)).resolve()) for run in start.runs)
        start = start.model_copy(update={"runs": runs})
    model = str(local.resolve()) if local.exists() else config.model
    harness = _looked_up(config.lm_eval, folder)
    return {"task": task, "model": model, "start_from": start, "lm_eval": harness}
