"""Start a study or reopen one; find every mistake before anything is trained."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sharetune.results.judging.regime import PRETRAINED
from sharetune.results.reading import attributes as record
from sharetune.results.reading.location import Location
from sharetune.results.reading.servers import name_server
from sharetune.search.circumstances import code, study_circumstances
from sharetune.search.config import StudyConfig
from sharetune.search.estimate import expectation
from sharetune.search.live import Live
from sharetune.search.progress_bars import stderr_console
from sharetune.search.same_study import FIXED, PLACED, differences, named, other_study, places
from sharetune.search.score_first import Scored, score_first
from sharetune.search.search import Search
from sharetune.search.solved import plans_from_scores
from sharetune.search.study.folder_lock import lock_folder
from sharetune.search.study.writer import DAMAGED, StudyWriter, reading, require_study
from sharetune.search.warm_start import earlier_fronts
from sharetune.spaces.errors import ConfigError, ModelError, RunError
from sharetune.spaces.evaluator import PREDICTIONS, Evaluator, Sizes
from sharetune.spaces.harness import PREFIX
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.spaces.pace import Pace
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder
from sharetune.spaces.settings import one_door
from sharetune.spaces.stack_shape import lacking_parts
from sharetune.spaces.whole_files import remove, write_whole
from sharetune.spaces.yaml_text import write_yaml

SCORED = ("model", "task", "space")
"""Keys of a study that scores depend on."""

NOTHING_LIVE = Live()
"""A study whose files say all."""

LARGER_THAN_UNSHARED = 1.1
"""The hypervolume's reference in an exact size, as a multiple of the unshared model's."""


def check_folder(run: RunFolder, *, resume: bool) -> None:
    """Raise :class:`RunError` if a new run's folder is taken, or a resumed one's holds no study.

    Scores of edits, and a model and data given from Python, may be there before a study is.
    """
    paths = list(run.path.iterdir()) if run.path.is_dir() else []
    earlier = {run.cache, run.scores, run.lock, run.inputs, *run.drafts()}
    if not resume and (run.path.is_file() or set(paths) - earlier):
        raise RunError(
            f"run folder {run.path} exists already",
            "continue it with --resume, or choose another with --out",
        )
    if resume:
        require_study(run.path)


@contextmanager
def new_folder(run: RunFolder) -> Iterator[int]:
    """Create a run folder and yield its lock, so that no other search starts in it.

    If the start fails it is emptied: data that it prepared would be taken for other data.
    """
    new = missing_folders(run)
    run.path.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(run)
    try:
        check_folder(run, resume=False)
        _empty(run)
        with left_without_study(run, new, lambda: _empty(run)):
            yield lock
    finally:
        os.close(lock)


def missing_folders(run: RunFolder) -> list[Path]:
    """Return the run folder and those it lies in, as far as they do not exist, innermost first."""
    return [path for path in (run.path, *run.path.parents) if not path.exists()]


@contextmanager
def left_without_study(
    run: RunFolder, new: Sequence[Path], empty: Callable[[], None]
) -> Iterator[None]:
    """Where an error comes before there is a study, call `empty` and remove the `new` folders."""
    try:
        yield
    except BaseException:
        if not Location.of(run.path).exists:
            empty()
            with suppress(OSError):
                for path in new:
                    path.rmdir()
        raise


def _empty(run: RunFolder) -> None:
    shutil.rmtree(run.cache, ignore_errors=True)
    for draft in run.drafts():
        remove(draft)


def reopened(config: StudyConfig, run: RunFolder) -> StudyWriter:
    """Open the study to continue; lock it before anything in its folder is touched."""
    writer = _opened(config, run)
    try:
        with reading(run.path):
            _require_attributes(run.path, writer.attributes)
            _check_same_study(config, run.path, writer.attributes)
    except BaseException:
        writer.close()
        raise
    return writer


def _opened(config: StudyConfig, run: RunFolder) -> StudyWriter:
    """Open a run folder's study, if it is where the study file says.

    A database that only the folder names is not connected to.
    """
    url = Location.of(run.path).url
    if url != config.storage:
        raise RunError(
            f"the study in {run.path} is kept in {url or 'the folder'}, and the study file says "
            f"storage: {config.storage or 'null'}",
            "undo the change, or start a new run with --out",
        )
    if url is not None:
        name_server(url)
    return StudyWriter.open(run.path)


@contextmanager
def held_for_scoring(config: StudyConfig, run: RunFolder) -> Iterator[None]:
    """Hold a run folder, with a study or without one, so that no search begins in it meanwhile.

    Raises :class:`RunError` if a search holds it, or its study is of another model, task or space,
    whose prepared data lie in the folder.
    """
    if not Location.of(run.path).exists:
        with new_folder(run):
            yield
        return
    writer = _opened(config, run)
    try:
        with reading(run.path):
            changed = differences(config, run.path, writer.attributes, SCORED)
        if changed:
            kinds = dict.fromkeys(text.split()[0].split(".")[0] for text in changed)
            raise RunError(
                f"the study in {run.path} is of another {' and '.join(kinds)}: {named(changed)}",
                "score into a folder of its own with --out",
            )
        yield
    finally:
        writer.close()


def _require_attributes(run: Path, present: Mapping[str, Any]) -> None:
    """Raise :class:`RunError` where an attribute is missing that every study is created with."""
    kinds = {record.CONFIG: dict, record.OBJECTIVES: list, record.REFERENCE: dict}
    bad = [name for name, kind in kinds.items() if not isinstance(present.get(name), kind)]
    if bad:
        raise RunError(f"the study in {run} has no readable {' and no '.join(bad)}", DAMAGED)


def _check_same_study(config: StudyConfig, run: Path, attributes: Mapping[str, Any]) -> None:
    kept = attributes[record.CONFIG].get("start_from")
    keys = FIXED if config.start_from is None or kept is None else (*FIXED, "start_from")
    changed = differences(config, run, attributes, keys)
    if config.start_from is not None and kept is None:
        changed.append("start_from is new")
    if changed:
        raise other_study(run, changed)


def _note_places(config: StudyConfig, run: Path, writer: StudyWriter) -> None:
    """Note where a project is that has moved since its study was stored."""
    now = places(config, run)
    if writer.attributes.get(record.PLACES) == now:
        return
    given = config.model_dump(mode="json")
    stored = writer.attributes[record.CONFIG]
    kept = {key: given[key] for key in PLACED if given[key] is not None}
    writer.note(record.CONFIG, stored | kept)
    writer.note(record.PLACES, now)


def real_evaluator(config: StudyConfig, run: RunFolder, live: Live = NOTHING_LIVE) -> Evaluator:
    """Prepare the study's model and task; see `trainers/evaluation/`."""
    from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
    from sharetune.trainers.exports.base import check_packages
    from sharetune.trainers.tasks.base import read_task

    task = read_task(config.task).with_collate(live.collate)
    own = () if config.metric is None else tuple(config.metric.numbers)
    harness = [PREFIX + number for number in config.harness]
    if harness and not task.generates:
        raise ConfigError(
            f"{harness[0]} is measured of language models, but the task is {task.name}",
            "it goes with the task text-generation",
        )
    for name in (*config.objectives, *config.budget.must_reach):
        if OBJECTIVES[name].source == "trained" and name not in (*task.metrics, *own, *harness):
            raise ConfigError(
                f"the task {task.name} does not measure {name}",
                f"it measures {', '.join(task.metrics)}; "
                f"for example objectives: [{task.metrics[0]}, parameters, flops]",
            )
    if config.latency.rounds:
        for form in config.latency.forms:
            check_packages(form)
    recipe = config.space.reference_recipe()
    return CandidateEvaluator.prepare(
        config.model,
        task,
        run.cache,
        recipe.max_length,
        metric=_own_metric(config, live),
        harness=_harness(config),
        similarity='"similar"' in config.model_dump_json(),
        teacher_recipe=recipe.plain() if config.space.distils else None,
        trackers=config.tracking,
        study=config.name,
        number_formats=config.number_formats,
        predictions=PREDICTIONS if config.scores is None else config.scores.tokens,
    )


def _own_metric(config: StudyConfig, live: Live) -> Any:
    from sharetune.trainers.tasks.own_metric import OwnMetric, function_at

    if config.metric is None:
        return None
    function = live.metric or function_at(config.metric.function)
    return OwnMetric(function, tuple(config.metric.numbers))


def _harness(config: StudyConfig) -> Any:
    from sharetune.trainers.tasks.harness import Harness

    if not config.harness:
        return None
    judged = any(name.startswith(PREFIX) for name in config.objectives)
    return Harness(config.lm_eval, config.harness, at_rungs=judged)


Rehearse = Callable[[Evaluator, Candidate], Pace | None]
"""Tries a candidate on a batch, and measures its pace; raises :class:`SharetuneError` if no trial
could be trained."""


def prepared_search(
    config: StudyConfig,
    run: RunFolder,
    evaluator: Evaluator,
    held: StudyWriter | int | None,
    rehearse: Rehearse,
) -> Search:
    """Return the search of a study that is continued, or of a new one in a folder that is locked.

    `held` is the one or the lock. A new one is tried with `rehearse`, and its edits are
    scored, first.
    """
    refuse_unfit(config, evaluator)
    if isinstance(held, StudyWriter):
        searching = Search(config, held, evaluator, run, code())
        _note_places(config, run.path, held)  # nothing is written before all was read
        held.end_interrupted()
        if config.resources.gpu == "auto":
            searching.pace = rehearse(evaluator, reference(config))
        return searching
    pace = rehearse(evaluator, reference(config))
    if pace is not None:
        told = expectation(config, evaluator, pace, run.path)
        stderr_console().print(told, markup=False)
    scored = score_first(config, run, evaluator)
    writer = _new_study(config, run, evaluator, held, scored)
    searching = Search(config, writer, evaluator, run, code())
    searching.pace = pace
    return searching


def refuse_unfit(config: StudyConfig, evaluator: Evaluator) -> None:
    """Raise :class:`SharetuneError` if the space has a candidate that could not be trained."""
    with one_door("the space", ConfigError, "see docs/reference.md"):
        candidates = config.space.check(dict(evaluator.stacks))
    _check_batches(candidates, config.resources.workers_per_trial)
    if config.resources.shard:
        _check_sharded(candidates)
    _check_exports(candidates, config.exports)
    evaluator.refuse(candidates)
    for plan in config.plans:
        plan.bound(evaluator.stacks)


def reference(config: StudyConfig) -> Candidate:
    """Return the unshared model with the recipe that anchors and plans are trained by."""
    return Candidate(recipe=config.space.reference_recipe())


def _check_batches(candidates: Sequence[Candidate], workers: int) -> None:
    smallest = min(candidate.recipe.batch_size for candidate in candidates)
    if smallest < workers:
        raise ConfigError(
            f"a batch of {smallest} has no example for each of {workers} workers",
            f"set recipe.batch_size to at least {workers}: it is what all workers of a trial "
            "train on together",
        )


def _check_sharded(candidates: Sequence[Candidate]) -> None:
    reason = next((c.unsharded for c in candidates if c.unsharded), None)
    if reason is not None:
        raise ConfigError(
            f"resources.shard divides trainings among workers, which {reason} does not allow",
            "leave it out of the space, or shard out of the resources",
        )


def _check_exports(candidates: Sequence[Candidate], wanted: Sequence[str]) -> None:
    if not wanted:
        return
    from sharetune.trainers.exports.base import EXPORTS, refuse_compressed

    for name in wanted:
        EXPORTS.known(name)
        for candidate in candidates:
            try:
                refuse_compressed(candidate.compression, name)
            except ModelError as error:
                raise ConfigError(
                    f"exports: {error.message}, but space.compression allows "
                    f"{candidate.compression}",
                    f"leave {name} out of exports, or that out of the space",
                ) from None


def _new_study(
    config: StudyConfig,
    run: RunFolder,
    evaluator: Evaluator,
    lock: int | None,
    scored: Scored | None,
) -> StudyWriter:
    unshared = evaluator.sizes(reference(config))
    attributes = _attributes(config, run.path, evaluator, unshared)
    attributes |= plans_from_scores(config, run, evaluator, unshared)
    if scored is not None:
        attributes[record.SCORING] = scored.written()
    if config.start_from is not None:
        stacks = evaluator.stacks
        attributes[record.EARLIER] = earlier_fronts(config.start_from, config.space, stacks)
    text = write_yaml(config.model_dump(mode="json"))
    writer = StudyWriter.create(run.path, config.name, attributes, config.storage, lock)
    write_whole(run.study_file, text)
    return writer


def _attributes(
    config: StudyConfig, run: Path, evaluator: Evaluator, unshared: Sizes
) -> dict[str, Any]:
    objectives = [OBJECTIVES[name] for name in config.objectives]
    return {
        record.CONFIG: config.model_dump(mode="json"),
        record.PLACES: places(config, run),
        record.OBJECTIVES: list(config.objectives),
        record.OBJECTIVE_SPECS: [objective.written() for objective in OBJECTIVES.values()],
        record.MODEL: {
            "name": _model_name(config.model),
            "stacks": {name: shape.depth for name, shape in evaluator.stacks.items()},
            "lacking": lacking_parts(evaluator.stacks),
            "labels": list(evaluator.labels),
            PRETRAINED: evaluator.pretrained,
        },
        record.IDENTITY: dict(evaluator.identity),
        record.ROWS: dict(evaluator.rows),
        record.REFERENCE: {each.name: reference_value(each, unshared) for each in objectives},
        record.CIRCUMSTANCES: study_circumstances(config.resources.cpu),
    }


def _model_name(model: str) -> str:
    """Return a hub name as it is, and a folder's last two parts, which mean something elsewhere."""
    return "/".join(Path(model).parts[-2:]) if Path(model).is_absolute() else model


def reference_value(objective: Objective, unshared: Sizes) -> float:
    """Return the hypervolume's reference in one objective.

    It is 1.1 times the unshared model's exact size, else a value that any useful model betters.
    """
    if objective.name in unshared:
        return LARGER_THAN_UNSHARED * unshared[objective.name]
    return objective.useless
