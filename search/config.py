"""Describe a study: what its file says, checked as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from sharetune.results.reading.location import checked_url
from sharetune.search.sections import (
    Budget,
    EarlyStopping,
    Finalists,
    LatencyProtocol,
    OwnNumbers,
    Resources,
    Scoring,
    Section,
    StartFrom,
)
from sharetune.spaces.anchors import ANCHORS, USUAL
from sharetune.spaces.compression import known_quantisation
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.harness import HarnessSettings, harness_numbers
from sharetune.spaces.objectives import OBJECTIVES, Direction, Objective
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.plugins import load_plugins
from sharetune.spaces.recipe import SEEDS
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.settings import one_door
from sharetune.spaces.space import Space
from sharetune.spaces.yaml_text import refuse_unplain


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
        USUAL, description="Reference candidates that are trained before all others."
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
            register_numbers(settings.seen_from(folder), numbers)
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
