"""The study file: YAML into pydantic models, all mistakes listed at once with their place."""

import math
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sharetune.results.reading.location import checked_url
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.errors import ConfigError, SharetuneError
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.spaces.paths import expanded
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.plugins import load_plugins
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.space import Space

FIXED = ("model", "task", "objectives", "space", "anchors", "plans", "seed", "sampler", "storage")
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class Section(BaseModel):
    """Base of all sections: unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stagnation(Section):
    """Ends a search whose hypervolume grew by at most the fraction `gain` over the last `window`
    completed trials."""

    window: int = Field(20, ge=1)
    gain: float = Field(0.001, ge=0)


class Budget(Section):
    """When to stop, and what not to train.

    `trials` counts the candidates that are trained, anchors included. After `wall_hours`,
    `cpu_hours` or `gpu_hours` of trials, or at `stagnation`, no more are started; those that run
    end as usual. Candidates over a hard limit (`max_parameters` in parameters, `max_bytes`,
    `max_flops`) are refused untrained, and so are those whose untrained architecture takes longer
    than `max_latency_ms`; to measure that
    no worker may be busy (`latency_limit.py`).
    """

    trials: int = Field(24, ge=1)
    wall_hours: float | None = Field(None, gt=0)
    cpu_hours: float | None = Field(None, gt=0)
    gpu_hours: float | None = Field(None, gt=0)
    stagnation: Stagnation | None = None
    max_parameters: float | None = Field(None, gt=0)
    max_bytes: float | None = Field(None, gt=0)
    max_flops: float | None = Field(None, gt=0)
    max_latency_ms: float | None = Field(None, gt=0)

    def limits(self) -> dict[str, float]:
        """Hard limits by the exact number they hold for."""
        limits = {
            "parameters": self.max_parameters,
            "bytes": self.max_bytes,
            "flops": self.max_flops,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


class EarlyStopping(Section):
    """When a training that cannot enter the front any more is stopped. Off without rungs.

    `rungs` are fractions of a training, rising, after which it is measured, on the split that
    selects, and compared; of all that reach a rung, those not among the first ``1 / eta`` may be
    stopped (`early_stopping.py`). Trainings are dealt out to `brackets`; none of bracket b,
    0-based, is stopped before rung b, and it has ``eta**-b`` as many as bracket 0.
    """

    rungs: tuple[float, ...] = ()
    eta: float = Field(3.0, gt=1)
    brackets: int = Field(1, ge=1)

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
        """The rung, 0-based, from which on trial `number` may be stopped: its bracket.

        Brackets are dealt out by the golden ratio, so that each has its share of any few trials in
        a row and a resumed study deals them out again in the same way.
        """
        sizes = [self.eta**-bracket for bracket in range(self.brackets)]
        place = (number * GOLDEN_RATIO) % 1.0 * sum(sizes)
        return sum(place >= end for end in accumulate(sizes[:-1]))


class Resources(Section):
    """What a worker is given, and how many trials run at once (`workers`; None: as many as fit).

    A trial is trained by one worker, or by `workers_per_trial` that divide each batch among them.
    `cpu` and `gpu` are what each is given. `gpu` is a fraction of a GPU; None: one where the
    cluster has any, else none. A trial that takes longer than `time_limit_s` seconds, or makes no
    step of its training within `heartbeat_s`, is ended with its workers and told as pruned. These
    two, `workers` and `workers_per_trial` are for Ray workers only.

    A training by one worker leaves a checkpoint every `checkpoint_s` seconds (None: never), from
    which another worker goes on.
    """

    workers: int | None = Field(None, ge=1)
    workers_per_trial: int = Field(1, ge=1)
    cpu: int = Field(1, ge=1)
    gpu: float | None = Field(None, ge=0)
    time_limit_s: float | None = Field(None, gt=0)
    heartbeat_s: float | None = Field(None, gt=0)
    checkpoint_s: float | None = Field(300.0, ge=0)

    @model_validator(mode="after")
    def _a_gpu_for_each(self) -> "Resources":
        gpu = self.gpu or 0.0
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


class LatencyProtocol(Section):
    """How latency is measured after the trials, on the front and the anchors. `rounds: 0`
    turns it off; `throughput` also times a batch of so many examples; `onnx` also exports each
    model and times it in onnxruntime, against the unshared one there; `graphs` replays CUDA
    graphs on a GPU."""

    rounds: int = Field(40, ge=0)
    throughput: int | None = Field(None, ge=2)
    onnx: bool = False
    graphs: bool = False


class Finalists(Section):
    """The front's members and the anchors, each trained again on `seeds` further seeds after the
    search, `longer` times as long as in it.

    Of a front with more members `most` are taken, spread over it.
    """

    seeds: int = Field(3, ge=2)
    most: int = Field(8, ge=1)
    longer: float = Field(1.0, ge=1)


class StartFrom(Section):
    """Earlier `runs` whose fronts are trained first, right after the anchors and plans.

    Of a front with more members `most` are taken, spread over it. Their plans are taken as they
    are; of their recipe and compression what this study searches, too, and the rest is as this
    study says. Later changes of those runs do not matter.
    """

    runs: tuple[str, ...] = Field(min_length=1)
    most: int = Field(8, ge=1)

    @field_validator("runs", mode="before")
    @classmethod
    def _one_run(cls, runs: Any) -> Any:
        return (runs,) if isinstance(runs, str) else runs


class StudyConfig(Section):
    """One study. Paths are relative to the study file once :func:`load_config` read it.

    `sampler` is ``auto``, a name that `sharetune list samplers` prints, a class of Optuna's, also
    with its arguments, as ``{GPSampler: {n_startup_trials: 10}}``, a class by its dotted path, or
    OptunaHub's, as ``{hub: {package: samplers/auto_sampler}}``. `storage` is the URL of a
    PostgreSQL database, without a password; None: a file in the run folder. `plugins` are modules
    that register what the rest of the file names: installed ones, or files beside the study file.
    """

    name: str = Field(min_length=1)
    plugins: tuple[str, ...] = ()
    model: str
    task: dict[str, Any]
    space: Space
    objectives: tuple[str, ...] = ("accuracy", "parameters", "flops")
    budget: Budget = Budget()
    early_stopping: EarlyStopping = EarlyStopping()
    resources: Resources = Resources()
    latency: LatencyProtocol = LatencyProtocol()
    finalists: Finalists | None = None
    anchors: tuple[str, ...] = tuple(ANCHORS)
    plans: tuple[SharingPlan, ...] = ()
    start_from: StartFrom | None = None
    sampler: str | dict[str, Any] = "auto"
    executor: Literal["ray", "local"] = "ray"
    keep: Literal["front", "all", "none"] = "front"
    tracking: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    storage: str | None = None
    seed: int = Field(0, ge=0)

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
    def _several_workers_need_ray(self) -> "StudyConfig":
        if self.executor == "local" and self.resources.workers_per_trial > 1:
            raise ConfigError(
                "executor: local is one process, but resources.workers_per_trial is "
                f"{self.resources.workers_per_trial}",
                "leave executor out, or workers_per_trial",
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

    @field_validator("plans", mode="before")
    @classmethod
    def _presets_by_name(cls, plans: Any) -> Any:
        if not isinstance(plans, list | tuple):
            return plans
        return tuple(SharingPlan.preset(p) if isinstance(p, str) else p for p in plans)

    @field_validator("tracking", "exports", mode="before")
    @classmethod
    def _one_name(cls, names: Any) -> Any:
        return (names,) if isinstance(names, str) else names

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


def known_objective(name: str) -> Objective:
    """The objective `name`, which the file of a task may have registered.

    Raises :class:`ConfigError` if there is none."""
    if name not in OBJECTIVES:
        from sharetune.trainers.tasks.base import TASKS

        TASKS.complete()
    return OBJECTIVES[name]


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """The study file at `path` with ``key.key=value`` overrides applied.

    Raises :class:`ConfigError` that lists every mistake with its place in the file.
    """
    data = _read(path)
    for each in overrides:
        override(data, each)
    data.setdefault("name", path.stem if path.stem != "study" else path.resolve().parent.name)
    config = validate(data, str(path), path.resolve().parent)
    return config.model_copy(update=_absolute_paths(config, path.resolve().parent))


def validate(data: dict[str, Any], source: str, folder: Path | None = None) -> StudyConfig:
    """`data` as a study, whose plugins may lie in `folder`. Raises :class:`ConfigError` that lists
    every mistake."""
    try:
        return StudyConfig.model_validate(data, context={"folder": folder})
    except ValidationError as error:
        raise describe(error, source) from None


def describe(
    error: ValidationError, source: str, model: type[BaseModel] = StudyConfig
) -> ConfigError:
    """All mistakes of a file that `model` reads as one error, the first hint as its hint."""
    lines, hints = [], []
    for mistake in error.errors():
        place = ".".join(map(str, mistake["loc"]))
        cause = mistake.get("ctx", {}).get("error")
        lines.append(f"{place}: {_text(mistake, cause)}" if place else _text(mistake, cause))
        hints.append(cause.hint if isinstance(cause, SharetuneError) else _hint(mistake, model))
    head = lines[0] if len(lines) == 1 else "; ".join(lines)
    return ConfigError(f"{source}: {head}", next(filter(None, hints), "see the README"))


def _text(mistake: Any, cause: Exception | None) -> str:
    if isinstance(cause, SharetuneError):
        return cause.message
    if mistake["type"] == "extra_forbidden":
        return "unknown key"
    if mistake["type"] == "missing":
        return "missing key"
    if mistake["type"] == "model_type":
        return f"must be a section of keys, but got {mistake['input']!r}"
    needed = mistake["msg"].lower().replace("valid tuple", "list").replace("dictionary", "section")
    return f"{needed.replace('tuple', 'list')}, but got {mistake['input']!r}"


def _hint(mistake: Any, model: type[BaseModel]) -> str:
    if mistake["type"] != "extra_forbidden":
        return ""
    *path, key = mistake["loc"]
    fields = list(_section(model, path).model_fields)
    return did_you_mean(str(key), fields)


def _section(model: type[BaseModel], path: list[Any]) -> type[BaseModel]:
    """The model of the section that `path` leads to, as far as it can be followed."""
    for step in path:
        field = model.model_fields.get(str(step))
        inner = _inner_model(field.annotation) if field else None
        model = inner or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner_model, getattr(annotation, "__args__", ()))), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"no such study file: {path}", "see examples/bbc-news/study.yaml"
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML in UTF-8: {text}", "check that line") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "name a file") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no keys", "see examples/bbc-news/study.yaml")
    return data


def override(data: dict[str, Any], setting: str) -> None:
    """Sets what `setting`, such as ``budget.trials=8``, says in `data`."""
    place, equals, value = setting.partition("=")
    if not equals or not all(place.split(".")):
        raise ConfigError(f"--set needs key=value, but got {setting!r}", "--set budget.trials=8")
    *sections, key = place.split(".")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            raise ConfigError(f"--set {setting}: {section} is not a section", "check the key")
    try:
        data[key] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(
            f"--set {setting}: {value!r} is not YAML", "close its brackets and quotes"
        ) from None


def _absolute_paths(config: StudyConfig, folder: Path) -> dict[str, Any]:
    """Keys that name existing files or folders beside the study file, made absolute.

    Data are read here and reach workers through the run folder. Each machine looks for the model
    itself, so that environment variables in its path stay.
    """

    def absolute(value: Any) -> Any:
        value = expanded(value) if isinstance(value, str) else value
        looks_like_path = isinstance(value, str) and ("/" in value or "." in value)
        candidate = folder / value if looks_like_path else None
        is_file = candidate is not None and (candidate.exists() or candidate.suffix in SUFFIXES)
        return str(candidate.resolve()) if candidate is not None and is_file else value

    task = {key: absolute(value) for key, value in config.task.items()}
    local = folder / config.model
    start = config.start_from
    if start is not None:
        runs = tuple(str((folder / expanded(run)).resolve()) for run in start.runs)
        start = start.model_copy(update={"runs": runs})
    model = str(local.resolve()) if local.exists() else config.model
    return {"task": task, "model": model, "start_from": start}


SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
