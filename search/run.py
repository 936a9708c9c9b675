"""Runs a study from its configuration to its report."""

import fcntl
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from sharetune.results.page.report import write_report
from sharetune.results.reading import attributes as record
from sharetune.results.reading.location import Location
from sharetune.search.config import FIXED, StudyConfig, load_config
from sharetune.search.driver import Driver
from sharetune.search.finalists import candidate_of
from sharetune.search.jobs import Trainee
from sharetune.search.latency_limit import measured
from sharetune.search.progress import Progress
from sharetune.search.signals import stopped_at_once
from sharetune.search.study.writer import Store, one_error, require_study
from sharetune.search.warm_start import earlier_fronts
from sharetune.search.workers import in_process as local
from sharetune.spaces.distillation import TEACHER_RECIPE
from sharetune.spaces.errors import ConfigError, ModelError, RunError
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.spaces.plan import StackShape
from sharetune.spaces.recipe import Candidate

VERSIONS = ("sharetune", "torch", "transformers", "ray", "optuna", "datasets", "numpy")
STUDY_FILE = "study.yaml"
CACHE = "cache"


def search(
    study: StudyConfig | Path | str,
    *,
    out: Path | str | None = None,
    resume: bool = False,
    address: str | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Search the plans of a `study`, given as its file or as read; return the run folder.

    `out` is that folder, by default ``runs/NAME``. `overrides` are as the command line's
    ``--set``, such as ``"budget.trials=8"``. The rest is as in :func:`run`, and so are the errors.
    """
    if not isinstance(study, StudyConfig):
        study = load_config(Path(study), tuple(overrides))
    folder = Path("runs") / study.name if out is None else Path(out)
    return run(study, out=folder, resume=resume, address=address)


def run(
    config: StudyConfig,
    *,
    out: Path,
    resume: bool = False,
    address: str | None = None,
    trainee: Trainee | None = None,
) -> Path:
    """Searches until the budget is spent, measures latency, writes the report; returns `out`.

    `resume` continues the study in `out` to exactly its budget. `trainee` replaces the model
    and its task, for tests. Raises :class:`SharetuneError` for a user's mistake, before
    anything is trained, and ``KeyboardInterrupt`` when told to stop; what is finished is kept.
    """
    _check_folder(out, resume=resume)
    out = out.resolve()  # workers have a working directory of their own
    with one_error(out), ExitStack() as cleanup:
        with _cluster(config, address) as connected:
            if connected is not None and address is not None:
                connected.result()  # a wrong address is noticed before a run folder is made
            earlier = _reopened(config, out) if resume else None
            if earlier is not None:
                cleanup.callback(earlier.close)
            with nullcontext() if resume else _new_folder(out):
                driver = _prepare(config, out, trainee or _trainee(config, out), earlier)
            if earlier is None:
                cleanup.callback(driver.store.close)
            if connected is not None:
                connected.result()
            with stopped_at_once(), Progress(driver):
                _execute(driver, config)
        with stopped_at_once():
            _measure_latency(driver)
            write_report(out)
    return out


@contextmanager
def _new_folder(out: Path) -> Iterator[None]:
    """A run folder in which no other search is being started, and of a failed start nothing
    stays: what it had prepared from data would be taken for that of other data."""
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        _lock_or_refuse(handle, out)
        _check_folder(out, resume=False)
        with _cleaned_up(out):
            yield
    finally:
        os.close(handle)


@contextmanager
def _cleaned_up(out: Path) -> Iterator[None]:
    shutil.rmtree(out / CACHE, ignore_errors=True)
    try:
        yield
    except BaseException:
        if not Location.of(out).exists:
            shutil.rmtree(out / CACHE, ignore_errors=True)
            with suppress(OSError):
                out.rmdir()
        raise


def _lock_or_refuse(handle: int, out: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(
            f"another search is being started in {out}", "choose another folder with --out"
        ) from None
    except OSError:
        return  # some network file systems lock no folders


def _reopened(config: StudyConfig, out: Path) -> Store:
    """The study to continue, locked before anything in its folder is touched."""
    store = Store.open(out)
    try:
        _check_same_study(config, store.attributes[record.CONFIG])
    except BaseException:
        store.close()
        raise
    return store


def _prepare(config: StudyConfig, out: Path, trainee: Trainee, earlier: Store | None) -> Driver:
    """Everything that can be wrong is found here, before there is a study; `earlier` is the one
    that is continued."""
    written = config.model_dump_json()
    facts = trainee.prepare(
        config.space.reference_recipe().max_length, similarity='"similar"' in written
    )
    shapes = {name: StackShape(**shape) for name, shape in facts["stacks"].items()}
    if config.space.distils:
        facts[TEACHER_RECIPE] = config.space.reference_recipe().plain().model_dump(mode="json")
    if config.tracking:
        facts["tracking"] = (config.tracking, config.name)
    candidates = config.space.check(shapes)
    _check_batches(candidates, config.resources.workers_per_trial)
    _check_exports(candidates, config.exports)
    trainee.check(candidates, facts)
    for plan in config.plans:
        plan.bound(shapes)
    if earlier is None:
        store = _new_store(config, out, trainee, facts, shapes)
    else:
        store = earlier
        store.end_interrupted()
    return Driver(
        config,
        store,
        trainee,
        facts=facts,
        shapes=shapes,
        run=out,
        circumstances=_code(),
    )


def _check_batches(candidates: Sequence[Candidate], workers: int) -> None:
    smallest = min(candidate.recipe.batch_size for candidate in candidates)
    if smallest < workers:
        raise ConfigError(
            f"a batch of {smallest} has no example for each of {workers} workers",
            f"set recipe.batch_size to at least {workers}: it is what all workers of a trial "
            "train on together",
        )


def _check_exports(candidates: Sequence[Candidate], wanted: Sequence[str]) -> None:
    if not wanted:
        return
    from sharetune.trainers.exports.base import EXPORTS, refuse_compressed

    for name in wanted:
        EXPORTS[name]
        for candidate in candidates:
            try:
                refuse_compressed(candidate.compression, name)
            except ModelError as error:
                raise ConfigError(
                    f"exports: {error.message}, but space.compression allows "
                    f"{candidate.compression}",
                    f"leave {name} out of exports, or that out of the space",
                ) from None


def _execute(driver: Driver, config: StudyConfig) -> None:
    if config.executor == "local":
        local.execute(driver, config)
        return
    from sharetune.search.workers import ray_tune as tune

    tune.execute(driver, config)


@contextmanager
def _cluster(config: StudyConfig, address: str | None) -> Iterator[Future[None] | None]:
    """Being connected to the workers while the study is prepared; None to run in this process.

    Afterwards the workers of a local cluster are gone.
    """
    if config.executor == "local":
        yield None
        return
    from sharetune.search.workers import ray_tune as tune

    with ThreadPoolExecutor(max_workers=1) as pool:
        connected = pool.submit(tune.connect, address, config)
        try:
            yield connected
        finally:
            connected.exception()
            tune.disconnect()


def _check_folder(out: Path, *, resume: bool) -> None:
    holds = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if not resume and (out.is_file() or holds - {CACHE}):
        raise RunError(
            f"run folder {out} exists already",
            "continue it with --resume, or choose another with --out",
        )
    if resume:
        require_study(out)


def _trainee(config: StudyConfig, out: Path) -> Trainee:
    from sharetune.trainers.evaluation.evaluator import Trainee as RealTrainee
    from sharetune.trainers.tasks.base import read_task

    task = read_task(config.task)
    for name in config.objectives:
        if OBJECTIVES[name].source == "trained" and name not in task.metrics:
            raise ConfigError(
                f"the task {task.name} does not measure {name}",
                f"it measures {', '.join(task.metrics)}; "
                f"for example objectives: [{task.metrics[0]}, parameters, flops]",
            )
    if config.latency.onnx and config.latency.rounds:
        from sharetune.trainers.exports.onnx import check_packages

        check_packages()
    return RealTrainee(config.model, task, out / CACHE)


def _new_store(
    config: StudyConfig,
    out: Path,
    trainee: Trainee,
    facts: dict[str, Any],
    shapes: dict[str, StackShape],
) -> Store:
    unshared = trainee.inspect(Candidate(recipe=config.space.reference_recipe()), facts)
    attributes = _attributes(config, facts, unshared)
    if config.start_from is not None:
        attributes[record.EARLIER] = earlier_fronts(config.start_from, config.space, shapes)
    store = Store.create(out, config.name, attributes, config.storage)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (out / STUDY_FILE).write_text(text, "utf-8")
    return store


def _check_same_study(config: StudyConfig, stored: dict[str, Any]) -> None:
    given = config.model_dump(mode="json")
    changed = [key for key in FIXED if given[key] != stored.get(key)]
    if given["start_from"] not in (None, stored.get("start_from")):
        changed.append("start_from")
    if changed:
        raise RunError(
            f"the study file is not the one this run was started with: {', '.join(changed)} differ",
            "undo the change, or start a new run with --out",
        )


def _attributes(
    config: StudyConfig, facts: dict[str, Any], unshared: dict[str, float]
) -> dict[str, Any]:
    return {
        record.CONFIG: config.model_dump(mode="json"),
        record.OBJECTIVES: list(config.objectives),
        record.OBJECTIVE_SPECS: [objective.written() for objective in OBJECTIVES.values()],
        record.MODEL: {
            "name": _model_name(config.model),
            "stacks": {name: shape["depth"] for name, shape in facts["stacks"].items()},
            "labels": facts.get("labels", []),
        },
        record.ROWS: facts.get("rows", {}),
        record.REFERENCE: {
            name: reference_value(OBJECTIVES[name], unshared) for name in config.objectives
        },
        record.CIRCUMSTANCES: _circumstances(config),
    }


def _model_name(model: str) -> str:
    """A hub name as it is; of a folder its last two parts, which mean something elsewhere too."""
    return "/".join(Path(model).parts[-2:]) if Path(model).is_absolute() else model


def reference_value(objective: Objective, unshared: dict[str, float]) -> float:
    """The hypervolume's reference in one objective: for exact sizes 1.1 times the unshared
    model's, else what any useful model betters."""
    return 1.1 * unshared[objective.name] if objective.name in unshared else objective.useless


def _circumstances(config: StudyConfig) -> dict[str, Any]:
    return _code() | {
        "threads": config.resources.cpu,
        "device": platform.machine(),
        "cpus": os.cpu_count(),
        "host": platform.node(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


@cache
def _code() -> dict[str, Any]:
    """Which code runs here: of this project and of what it stands on."""
    return {
        "versions": {"python": platform.python_version()} | dict(_versions()),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in VERSIONS:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


def _git(*arguments: str) -> str | None:
    """What git says of the checkout this code runs from; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _measure_latency(driver: Driver) -> None:
    """Latency of the front's and the anchors' kept models that have none yet."""
    config, store = driver.config, driver.store
    if not config.latency.rounds:
        return
    _note_measured(driver)
    wanted = {trial.number: trial for trial in driver.front()}
    wanted |= {t.number: t for t in driver.complete if record.ANCHOR in t.user_attrs}
    for number, trial in sorted(wanted.items()):
        folder = driver.run / "trials" / str(number) / "model"
        if f"{record.LATENCY}{number}" in store.attributes or not folder.exists():
            continue
        candidate = candidate_of(trial)
        found = measured(config, driver.trainee, folder, candidate, driver.facts)
        store.note(f"{record.LATENCY}{number}", found)


def _note_measured(driver: Driver) -> None:
    """Latency of trials whose architecture was measured before they were trained."""
    noted = driver.store.attributes
    for trial in driver.complete:
        key, found = f"{record.LATENCY}{trial.number}", driver.timing.known(candidate_of(trial))
        if found is not None and key not in noted:
            driver.store.note(key, found)
