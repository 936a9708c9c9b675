"""Search the plans of a model from Python, with the model and the data in memory.

>>> run = search(model, {"train": frame, "test": other}, budget=24)    # doctest: +SKIP
>>> run.best(within=1.0).export("smaller")                             # doctest: +SKIP

Everything becomes a study as a file would describe it: `search/python/inputs.py` writes what is
live into the run folder, what is not given is as ``sharetune init`` proposes it.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import transformers

from sharetune.results.reading.study import read_study
from sharetune.results.reading.trial import Trial
from sharetune.search.commands.init import proposal_of
from sharetune.search.config import StudyConfig
from sharetune.search.live import Live
from sharetune.search.python.fitting import as_before, in_hours, is_fitted
from sharetune.search.python.inputs import Data, Inputs, Model, write_inputs
from sharetune.search.python.run import Run
from sharetune.search.python.words import in_python, names_of_files
from sharetune.search.run import run as run_study
from sharetune.search.same_study import other_keys, other_study
from sharetune.search.sections import Budget
from sharetune.search.starting import check_folder, left_without_study, missing_folders
from sharetune.search.study_file import load_config, validate
from sharetune.spaces.errors import ConfigError, SharetuneError
from sharetune.spaces.objectives import OBJECTIVES, Direction
from sharetune.spaces.run_folder import RunFolder
from sharetune.spaces.settings import one_door
from sharetune.spaces.space import Space
from sharetune.spaces.yaml_text import read_yaml
from sharetune.trainers.evaluation.evaluator import quiet_libraries
from sharetune.trainers.models.pretrained import from_library
from sharetune.trainers.tasks.base import TASKS, Task, read_task
from sharetune.trainers.tasks.own_metric import ComputeMetrics, numbers, reference_of

TENSORS = "tensors"
"""The task of torch data sets."""

PROBED = 32
"""Test examples on which a metric is tried before anything is trained."""

MINIMISED = ("loss", "error", "perplexity")
"""Ends of a number's name by which less of it is better, unless `objectives` says otherwise."""

Objectives = Sequence[str] | Mapping[str, Direction] | None


@dataclass(frozen=True)
class Asked:
    """The arguments of a search that make its study. `settings` are further keys of one."""

    task: str | Mapping[str, Any] | None
    space: Space | Mapping[str, Any] | None
    objectives: Objectives
    budget: int | Budget | Mapping[str, Any] | None
    settings: Mapping[str, Any]


def search(
    model: Model | StudyConfig,
    data: Data | None = None,
    *,
    space: Space | Mapping[str, Any] | None = None,
    objectives: Objectives = None,
    budget: int | Budget | Mapping[str, Any] | None = None,
    metric: ComputeMetrics | None = None,
    callbacks: Sequence[Callable[[Trial], object]] = (),
    task: str | Mapping[str, Any] | None = None,
    tokenizer: object = None,
    collate: Callable[..., Any] | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    address: str | None = None,
    overrides: Sequence[str] = (),
    **settings: object,
) -> Run:
    """Search sharing plans of a model; return the finished run.

    `model` is a hub name, a folder, or a ``PreTrainedModel`` with its `tokenizer` (by default that
    of the checkpoint it came from). `data` is a ``datasets.DatasetDict``, a pandas frame, two torch
    data sets with a `collate` function, files or hub names: one split, a pair of training and test
    split, or a mapping by name. A study file may be given alone, with `overrides` as ``--set``.

    `task` is a task's name, or a mapping with its keys; by default it follows from the model's
    class. `space`, `objectives` and further keyword arguments are the keys of a study file
    (`docs/reference.md`), `budget` its section or a number of trials; what is left out is as
    ``sharetune init`` proposes. A budget of ``{"wall_hours": 2}`` alone makes trials and steps fit
    into that time here, as ``init --hours`` does. `metric` is a function as the Trainer's
    `compute_metrics`: its numbers become objectives, and the search goes by the first where
    `objectives` names none; a mapping such as ``{"f2": "maximize"}`` says which is better.
    Each of `callbacks` is called with every trial that ends.

    `out` is the run folder, by default a new one in ``runs/``; `resume` continues the one there,
    with the same model and data; `address` joins a Ray cluster.

    Raises :class:`SharetuneError` for a mistake, before anything is trained, and
    ``KeyboardInterrupt`` when it is stopped; what is finished is kept.
    """
    if data is None and (isinstance(model, StudyConfig) or _is_study_file(model)):
        return _search_file(model, tuple(overrides), out, resume, address, tuple(callbacks))
    if data is None:
        raise ConfigError(
            "search needs a model and data, or a study file", "search(model, frame), for example"
        )
    folder = _run_folder(out, resume, settings.get("name"))
    asked = Asked(task, space, objectives, budget, settings)
    print(f"run folder: {folder.path}", file=sys.stderr)
    files: dict[str, str] = {}
    quiet_libraries()
    try:
        check_folder(folder, resume=resume)
        files = names_of_files(data, folder)
        if resume:
            _refuse_other_task(task, folder)
        new = missing_folders(folder)
        with left_without_study(folder, new, partial(rmtree, folder.inputs, ignore_errors=True)):
            inputs = write_inputs(model, data, tokenizer, folder, resume)
            config = _study(asked, inputs, folder, metric, collate)
            live = Live(metric, collate, tuple(callbacks))
            if is_fitted(budget):
                given = {"space": space, **settings}
                if resume:
                    config = as_before(config, given, read_study(folder.path).config)
                else:
                    config = in_hours(config, given, live)
            found = run_study(config, out=folder.path, resume=resume, address=address, live=live)
        return Run(found)
    except SharetuneError as error:
        raise in_python(error, files) from error
    except KeyboardInterrupt:
        if folder.path.exists():
            going_on = f'search(..., out="{folder.path}", resume=True)'
            print(f"stopped; what is finished is kept; {going_on} continues", file=sys.stderr)
        raise


def _refuse_other_task(task: str | Mapping[str, Any] | None, run: RunFolder) -> None:
    """Raise :class:`RunError` if a resumed run has another task: its data would not fit either."""
    given = {"name": task} if isinstance(task, str) else dict(task or {})
    if changed := other_keys("task", read_study(run.path).config.get("task") or {}, given):
        raise other_study(run.path, changed)


def _search_file(
    study: StudyConfig | Path | str,
    overrides: tuple[str, ...],
    out: Path | str | None,
    resume: bool,
    address: str | None,
    callbacks: tuple[Callable[[Trial], object], ...],
) -> Run:
    config = study if isinstance(study, StudyConfig) else load_config(Path(study), overrides)
    folder = Path("runs") / config.name if out is None else Path(out)
    live = Live(callbacks=callbacks)
    return Run(run_study(config, out=folder, resume=resume, address=address, live=live))


def _is_study_file(model: object) -> bool:
    return isinstance(model, str | Path) and str(model).endswith((".yaml", ".yml"))


def _run_folder(out: Path | str | None, resume: bool, name: object) -> RunFolder:
    """Return the folder `out`, or a new one in ``runs/``."""
    if out is not None:
        return RunFolder(Path(out))
    if resume:
        raise ConfigError(
            "resume needs the run folder", 'search(..., out="runs/NAME", resume=True)'
        )
    first = Path("runs") / str(name or "search")
    further = (first.with_name(f"{first.name}-{number}") for number in range(2, 100_000))
    return RunFolder(next(path for path in (first, *further) if not path.exists()))


def _study(
    asked: Asked,
    inputs: Inputs,
    run: RunFolder,
    metric: ComputeMetrics | None,
    collate: Callable[..., Any] | None,
) -> StudyConfig:
    """Return the study of the arguments, completed as ``sharetune init`` completes one."""
    model, splits = _located(inputs.model), {k: _located(v) for k, v in inputs.splits.items()}
    with one_door("search()", ConfigError, "see docs/python.md"):
        keys = _task_keys(asked.task, inputs, model)
    made = read_task(keys | splits).with_collate(collate)
    keys |= {} if collate is None else {"collate": reference_of(collate)}
    texts = {"name": "study", "model": "model", "data": "data"}
    data: dict[str, Any] = read_yaml(proposal_of(made, model, texts, {}).text)
    data |= {"name": run.path.name, "model": model, "task": keys | splits}
    data |= asked.settings
    if asked.space is not None:
        proposed, data["space"] = data["space"], _completed(asked.space, data["space"])
        if _draws_others(data["space"], proposed):
            data["plans"] = asked.settings.get("plans", ())
    if asked.budget is not None:
        data["budget"] = {"trials": asked.budget} if isinstance(asked.budget, int) else asked.budget
    if metric is not None:
        found = _measured_numbers(metric, made, model)
        data["metric"] = {"function": reference_of(metric), "numbers": _directed(found, asked)}
        data["objectives"] = [found[0], "parameters", "flops"]
    if asked.objectives is not None:
        wanted = asked.objectives
        data["objectives"] = list(wanted) if isinstance(wanted, Iterable) else wanted
    config = validate(data, "search()")
    _check_directions(config, asked.objectives)
    return config


def _completed(
    space: Space | Mapping[str, Any], proposed: Mapping[str, Any]
) -> Space | Mapping[str, Any]:
    """Return a space with the plans that are `proposed`, and the length of examples that fits,
    where it says nothing of them."""
    recipe = space.get("recipe") or {} if isinstance(space, Mapping) else None
    if not isinstance(recipe, Mapping) or isinstance(space, Space):
        return space
    plan = {"plan": proposed["plan"]} if "plan" in proposed else {}
    return {**plan, **space, "recipe": {"max_length": proposed["recipe"]["max_length"], **recipe}}


def _draws_others(space: object, proposed: Mapping[str, Any]) -> bool:
    """Return whether a space draws other plans than the ones that are `proposed`."""
    return not isinstance(space, Mapping) or space.get("plan") != proposed.get("plan")


def _located(name: str) -> str:
    """Return a path that exists as an absolute one, which workers find; a hub name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _task_keys(task: str | Mapping[str, Any] | None, inputs: Inputs, model: str) -> dict[str, Any]:
    keys = {"name": task} if isinstance(task, str) else dict(task or {})
    if "name" not in keys:
        keys["name"] = TENSORS if inputs.of_tensors else _task_of(model)
    fields = TASKS[keys["name"]].model_fields
    return {key: value for key, value in inputs.keys.items() if key in fields} | keys


def _task_of(model: str) -> str:
    """Return the task whose model head the checkpoint has. Raises :class:`ConfigError`."""
    config = from_library(transformers.AutoConfig, model)
    named = (config.architectures or ["none"])[0]
    for name, task in TASKS.items():
        mapping = getattr(task.auto, "_model_mapping", {})
        heads = mapping.get(type(config), ()) if mapping else ()
        if named in {head.__name__ for head in (heads if isinstance(heads, tuple) else (heads,))}:
            return name
    raise ConfigError(
        f"the task does not follow from a model of the class {named}",
        f"say it: task='text-classification', or one of {', '.join(TASKS)}",
    )


def _measured_numbers(metric: ComputeMetrics, task: Task, model: str) -> list[str]:
    """Call the metric on a few test examples and the untrained model; return its numbers' names."""
    with tempfile.TemporaryDirectory() as cache:
        train, test, facts = task.read()
        length = task.length(train, task.skeleton(model, facts))
        frames = {"train": train.head(PROBED), "test": test.head(PROBED)}
        for name, frame in frames.items():
            frame.to_parquet(Path(cache) / f"{name}.parquet")
        probing = task.model_copy(update={"validation": None})
        _, judged = probing.splits(model, Path(cache), length)
        loaded = task.load(model, facts)
        prediction = task.trainers_prediction(loaded, judged, task.predict(loaded, judged))
        return list(numbers(metric, prediction))


def _directed(found: Sequence[str], asked: Asked) -> dict[str, Direction]:
    """Return for each of a metric's numbers whether more or less of it is better."""
    given = asked.objectives if isinstance(asked.objectives, Mapping) else {}
    return {name: given.get(name) or _usual_direction(name) for name in found}


def _usual_direction(name: str) -> Direction:
    if name in OBJECTIVES:
        return OBJECTIVES[name].direction
    return "minimize" if name.endswith(MINIMISED) else "maximize"


def _check_directions(config: StudyConfig, objectives: Objectives) -> None:
    """Raise :class:`ConfigError` for an objective that is wanted in the other direction."""
    for name, direction in objectives.items() if isinstance(objectives, Mapping) else ():
        known = OBJECTIVES[name].direction
        if direction != known:
            raise ConfigError(
                f"{name} is an objective that is {known}d, but got {direction!r}",
                f'write "{name}": "{known}"',
            )
