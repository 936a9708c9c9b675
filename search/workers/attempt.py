"""Run one job on a worker, which stays usable whatever the candidate does."""

import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace

from sharetune.search.outcome import (
    DISK_FULL,
    Outcome,
    Reached,
    describe,
    is_disk_full,
    stopped,
)
from sharetune.spaces.errors import (
    CandidateFault,
    OutOfMemory,
    StoppedAtRung,
)
from sharetune.spaces.evaluator import (
    Job,
    JobResources,
    Listener,
    Measured,
    Metrics,
)
from sharetune.spaces.whole_files import follow_umask, sync_within

Evaluate = Callable[[Job, JobResources, Listener], Measured]
"""The `evaluate` of an evaluator, or of a trial group around one."""

IN_PARTS = 2
"""Parts of a batch that did not fit, or the fewest more that it can be divided into."""

Report = Callable[[int, Metrics], bool]
"""Takes a rung and the metrics there; returns whether the training goes on."""


class Paused:
    """A job in a thread of its own that waits at each rung until it may go on.

    So a worker can return its rungs one by one, while the job is in the middle of the library's
    training loop.
    """

    def __init__(self, run: Callable[[Report], Outcome]) -> None:
        self._events: queue.Queue[Reached | Outcome] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True)

    def resume(self) -> Reached | Outcome:
        """Run on to the next rung or to the end."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._answers.put(True)
        return self._events.get()

    def stop(self) -> None:
        """End the job at the rung where it waits."""
        self._answers.put(False)
        self._thread.join()

    def _work(self, run: Callable[[Report], Outcome]) -> None:
        self._events.put(run(self._report))

    def _report(self, rung: int, metrics: Metrics) -> bool:
        self._events.put(Reached(rung, metrics))
        return self._answers.get()


def attempt(evaluate: Evaluate, job: Job, resources: JobResources, listener: Listener) -> Outcome:
    """Run `job` and return how it ended; never raises.

    A job that runs out of memory is tried once more with its batches in parts. Its weights are on
    the disk before it counts as complete, and its checkpoints are removed when it ends.
    """
    outcome = _attempt_once(evaluate, job, resources, listener)
    recipe = job.candidate.recipe
    if (outcome.error or {}).get("kind") == OutOfMemory.__name__ and recipe.has_parts:
        in_parts = replace(resources, accumulation=IN_PARTS)
        outcome = _attempt_once(evaluate, job, in_parts, listener)
    shutil.rmtree(job.folder.checkpoints, ignore_errors=True)
    return outcome


def _attempt_once(
    evaluate: Evaluate, job: Job, resources: JobResources, listener: Listener
) -> Outcome:
    try:
        measured = evaluate(job, resources, listener)
        if job.folder.model.exists():
            follow_umask(job.folder.model)
            sync_within(job.folder.model, job.folder.run.path)
        return Outcome("complete", measured)
    except StoppedAtRung as stop:
        return stopped(stop)
    except CandidateFault as fault:
        return Outcome("pruned", reason=str(fault), error=describe(fault))
    except Exception as error:
        reason = DISK_FULL if is_disk_full(error) else None
        return Outcome("failed", reason=reason, error=describe(error))
