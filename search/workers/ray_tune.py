"""Run jobs on Ray Tune workers. Only this file, `ray_cluster.py`, `ray_scores.py` and
`pinned/ray_internals.py` import ray.

Ray Tune is a disposable executor: it only runs jobs on warm workers. The study is the record.
"""

import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from sharetune.search.outcome import Outcome, Reached, stopped
from sharetune.search.pinned.ray_internals import forget
from sharetune.search.search import Search
from sharetune.search.sections import Resources
from sharetune.search.signals import stopped_when_safe
from sharetune.search.workers.attempt import Evaluate, Paused, Report, attempt
from sharetune.search.workers.pulse import GRACE_S, Beat, Pulse, PulseWatch, end_process
from sharetune.search.workers.ray_cluster import (
    capacity,
    require_run_folder,
    tell_of_missing,
    watched_services,
    worker_resources,
)
from sharetune.search.workers.service_watch import ServiceWatch
from sharetune.search.workers.trial_group import Meeting, TrialGroup, assist
from sharetune.search.workers.watchdog import Watchdog, note_stopped
from sharetune.spaces.errors import RunError
from sharetune.spaces.evaluator import Evaluator, Job, JobResources, Metrics

WORKER_RETRIES = 2
"""Further tries of a job whose worker died: the fault may be the node's or the job's."""


class JobSearcher(Searcher):
    """A Ray Tune searcher that suggests the search's jobs, and retries those whose worker died.

    Ray Tune's own retries leave out a worker that dies between two jobs. A job that left a new
    checkpoint before its worker died has as many tries as at first; none counts while the search is
    cut off from the cluster. `broken` is the first error of the search, such as a storage that
    cannot be written: Ray Tune takes it for the trial's and goes on.
    """

    def __init__(self, search: Search, services: ServiceWatch) -> None:
        super().__init__()
        self.search, self.services = search, services
        self.jobs: dict[str, Job] = {}
        self.again: deque[Job] = deque()
        self.losses: Counter[int] = Counter()
        self.progress: dict[int, set[str]] = {}
        self.broken: BaseException | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles its searcher, and ours is not to be restored."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next job; None while one may follow; FINISHED when there are no more."""
        with self._searching():
            self.services.stop_if_refused()  # what Ray Tune asks next would wait for ever
            job = self.again.popleft() if self.again else self.search.next()
        if job is None:
            return Searcher.FINISHED if self.search.done else None
        self.jobs[trial_id] = job
        return {"job": job}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Report the job's outcome to the search; a worker that died too often counts as failed."""
        if self.broken is not None:
            return
        job = self.jobs.pop(trial_id)
        outcome = (result or {}).get("outcome")
        reached = (result or {}).get("reached")
        if isinstance(reached, Reached) and not error:
            outcome = stopped(reached.described())
        if error or not isinstance(outcome, Outcome):
            outcome = Watchdog(job, self.search.config.resources).verdict()
        if outcome is None and self.services.refusing() is not None:
            self.again.append(job)
            return
        if outcome is None:
            progress = _progress(job)
            if progress - self.progress.get(job.number, set()):
                self.losses[job.number] = 0
            self.progress[job.number] = progress
            self.losses[job.number] += 1
            if self.losses[job.number] <= WORKER_RETRIES:
                self.again.append(job)
                return
            lost = {"kind": "WorkerLost", "message": f"worker died {WORKER_RETRIES + 1} times"}
            outcome = Outcome("failed", reason="worker lost", error=lost | {"traceback": ""})
        with self._searching():
            self.search.finish(job, outcome)

    def reached(self, trial_id: str, at: Reached) -> bool:
        """Report a job's metrics at a rung to the search; return whether it goes on."""
        with self._searching():
            return self.search.reached(self.jobs[trial_id], at.rung, at.metrics)

    @contextmanager
    def _searching(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.broken = self.broken or error
            raise

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is the only record."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a resumed search is a new run over the same study."""


def _progress(job: Job) -> set[str]:
    """Return the checkpoints that the job's training has written so far."""
    return {path.name for path in job.folder.checkpoints.glob("*/checkpoint-*")}


class BetweenSteps(tune.Callback):
    """A callback that looks around between two steps of Ray Tune's loop, of at most 0.1 s each.

    It ends the loop when asked to or cut off, and workers that have stopped; trials that have ended
    are forgotten.
    """

    def __init__(
        self,
        stop_if_asked: Callable[[], None],
        searcher: JobSearcher,
        watch: PulseWatch | None,
        services: ServiceWatch,
    ) -> None:
        self.stop_if_asked, self.searcher, self.watch = stop_if_asked, searcher, watch
        self.services = services
        self.ended: deque[Any] = deque()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing, as the searcher."""
        return {}

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **info: object
    ) -> None:
        """Note a trial that Ray Tune is done with after this step."""
        self.ended.append(trial)

    on_trial_error = on_trial_complete

    def on_step_begin(self, iteration: int, trials: list[Any], **info: object) -> None:
        """Raise ``KeyboardInterrupt`` if a signal came, or the error that ends the search."""
        while self.ended:
            forget(self.ended.popleft())
        self.services.stop_if_lost()
        self.stop_if_asked()
        if self.searcher.broken is not None:
            raise self.searcher.broken
        for beat in self.watch.stopped() if self.watch is not None else ():
            job = next((j for j in self.searcher.jobs.values() if j.number == beat.job), None)
            if _end_worker(beat) and job is not None:
                note_stopped(job, f"process {beat.pid} stood still and was ended by the driver")


def _end_worker(beat: Beat) -> bool:
    """End a worker's process wherever it runs; say whether it was still there."""
    if beat.node == ray.get_runtime_context().get_node_id():
        return end_process(beat.pid)
    at = NodeAffinitySchedulingStrategy(beat.node, soft=False)
    end: Any = ray.remote(num_cpus=0)(end_process)
    try:
        return bool(ray.get(end.options(scheduling_strategy=at).remote(beat.pid), timeout=10))
    except ray.exceptions.RayError:  # the node is gone, and its processes with it
        return False


class SilentReporter(tune.ProgressReporter):
    """A reporter that shows nothing: Ray Tune's own clears a notebook's cell, ours with it."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Return that there is nothing to report."""
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        """Do nothing."""


class RungScheduler(FIFOScheduler):
    """A Ray Tune scheduler that asks the search at every rung whether the training goes on."""

    def __init__(self, searcher: JobSearcher) -> None:
        super().__init__()
        self.searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing, as the searcher."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return CONTINUE or STOP; Ray Tune does not ask about a job's end."""
        goes_on = self.searcher.reached(trial.trial_id, result["reached"])
        return str(FIFOScheduler.CONTINUE if goes_on else FIFOScheduler.STOP)


@dataclass(frozen=True)
class Shared:
    """The evaluator and resources of all jobs; `gpu` is the fraction of one that a worker gets."""

    evaluator: Evaluator
    resources: Resources
    gpu: float


class Watched:
    """A listener that passes rungs on to `report` and beats on to the watchdog."""

    def __init__(self, report: Report, watchdog: Watchdog | None) -> None:
        self.report, self.watchdog = report, watchdog

    def rung(self, rung: int, metrics: Metrics) -> bool:
        """Return whether the training goes on."""
        return self.report(rung, metrics)

    def beat(self, in_step: bool) -> None:
        """Let the watchdog know that a step begins or has ended."""
        if self.watchdog is not None:
            self.watchdog.beat(in_step)


class Worker(tune.Trainable):
    """A process that keeps libraries and data loaded and runs one job after another."""

    def setup(self, config: dict[str, Any], *, shared: Shared) -> None:
        """Take the first job."""
        self.shared = shared
        self.evaluate: Evaluate = shared.evaluator.evaluate
        if shared.resources.workers_per_trial > 1:
            self.evaluate = _trial_group(shared).evaluate
        self.running: Paused | None = None
        self.job: Job = config["job"]
        self.pulse: Pulse | None = None
        if shared.resources.heartbeat_s is not None:
            node = ray.get_runtime_context().get_node_id()
            self.pulse = Pulse(self.job.folder.run, node)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job into the same process."""
        self.cleanup()
        self.job = new_config["job"]
        return True

    def cleanup(self) -> None:
        """End a job that waits at a rung."""
        if self.running is not None:
            self.running.stop()
            self.running = None

    def step(self) -> dict[str, Any]:
        """Run the job to its next rung, or to its end."""
        if self.pulse is not None:
            self.pulse.begin(self.job.number)
        if self.running is None:
            self.running = Paused(self._attempt)
        found = self.running.resume()
        if isinstance(found, Reached):
            return {"reached": found}
        self.running = None
        return {"outcome": found, "done": True}

    def _attempt(self, report: Report) -> Outcome:
        given = self.shared.resources
        watchdog = Watchdog(self.job, given)
        listener = Watched(report, None if given.heartbeat_s is None else watchdog)
        resources = JobResources(
            threads=given.cpu, checkpoint_s=given.checkpoint_s, shard=given.shard
        )
        with watchdog:
            return attempt(self.evaluate, self.job, resources, listener)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: a job is run whole."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """Do nothing: nothing was kept."""


@ray.remote
class Assistant:
    """A further process of a trial, which ends with the worker that started it."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def assist(self, job: Job, resources: JobResources, at: Meeting) -> Exception | None:
        """Train a part of the job; return the error that this raised, or None."""
        return assist(self.shared.evaluator, job, resources, at)


def _trial_group(shared: Shared) -> TrialGroup:
    """Start an assistant for each further bundle of the trial; return this worker's group."""
    bundles = PlacementGroupSchedulingStrategy(ray.util.get_current_placement_group())
    given = {"num_cpus": shared.resources.cpu, "num_gpus": shared.gpu}
    kind: Any = Assistant
    start = kind.options(**given, scheduling_strategy=bundles).remote
    actors = [start(shared) for _ in range(shared.resources.workers_per_trial - 1)]
    assistants = [lambda *asked, a=a: a.assist.remote(*asked).future() for a in actors]
    return TrialGroup(shared.evaluator, assistants, ray.util.get_node_ip_address())


def _require_portable(evaluator: Evaluator) -> None:
    """Raise :class:`RunError` if a function of the study cannot be sent to workers."""
    try:
        ray.cloudpickle.dumps(evaluator)
    except Exception as error:  # whatever an object's own pickling raises
        raise RunError(
            f"the study's functions cannot be sent to Ray workers: {str(error).splitlines()[0]}",
            "let them use no open files, locks or connections, or train in this process: "
            "executor=local",
        ) from error


def execute(search: Search) -> None:
    """Train on the connected cluster until the search has nothing more."""
    config = search.config
    require_run_folder(search.run.path)
    resources, each = worker_resources(config, search.pace), config.resources.workers_per_trial
    workers = config.resources.workers or capacity(resources, each)
    shared = Shared(search.evaluator, config.resources, resources["GPU"])
    if config.metric is not None or "collate" in config.task:
        _require_portable(search.evaluator)
    search.workers = workers
    tell_of_missing(resources, each)
    services = watched_services(search.last_words)
    searcher = JobSearcher(search, services)
    bundles = tune.PlacementGroupFactory([resources for _ in range(each)])
    trainable = tune.with_resources(tune.with_parameters(Worker, shared=shared), bundles)
    settings = tune.TuneConfig(
        search_alg=searcher,
        scheduler=RungScheduler(searcher),
        max_concurrent_trials=workers,
        num_samples=-1,
        reuse_actors=True,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )
    with (
        tempfile.TemporaryDirectory(prefix="sharetune-") as scratch,
        stopped_when_safe() as stop_if_asked,
        services,
        _error_of_the_search(searcher),
        _watch(search) as watch,
    ):
        between = BetweenSteps(stop_if_asked, searcher, watch, services)
        tune.Tuner(trainable, tune_config=settings, run_config=_quiet_run(scratch, between)).fit()


def _quiet_run(scratch: str, callback: tune.Callback) -> tune.RunConfig:
    """Return Ray Tune's settings of a run that keeps and prints nothing of its own."""
    return tune.RunConfig(
        name="jobs",
        storage_path=scratch,
        verbose=0,
        progress_reporter=SilentReporter(),
        callbacks=[callback],
        failure_config=tune.FailureConfig(max_failures=0),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )


def _watch(search: Search) -> AbstractContextManager[PulseWatch | None]:
    limit = search.config.resources.heartbeat_s
    return nullcontext() if limit is None else PulseWatch(search.run, limit + GRACE_S)


@contextmanager
def _error_of_the_search(searcher: JobSearcher) -> Iterator[None]:
    """Raise the error that broke the search instead of the one that Ray Tune makes of it."""
    try:
        yield
    except Exception:
        if searcher.broken is None:
            raise
    if searcher.broken is not None:
        raise searcher.broken from None
