"""What passes between the driver and a worker, and how a worker runs one job."""

import errno
import math
import queue
import shutil
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sharetune.search.config import Resources
from sharetune.spaces.errors import CandidateFault, OutOfMemory, StoppedAtRung
from sharetune.spaces.recipe import Candidate

CHECKPOINTS = "checkpoints"
DISK_FULL = "disk full"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
State = Literal["complete", "pruned", "failed"]
Evaluate = Callable[..., dict[str, Any]]
"""A trainee's `evaluate`."""
Report = Callable[[int, dict[str, float]], bool]
"""Told a rung and what was measured there; says whether the training goes on."""
Beat = Callable[[bool], None]
"""Told True when a step of a training begins, and False when it has ended."""


class Trainee(Protocol):
    """What a search needs of a model and its task. `trainers/evaluation/` has the real one."""

    def prepare(self, max_length: int, *, similarity: bool = False) -> dict[str, Any]: ...
    def check(self, candidates: Sequence[Candidate], facts: dict[str, Any]) -> None: ...
    def inspect(self, candidate: Candidate, facts: dict[str, Any]) -> dict[str, float]: ...
    def evaluate(
        self,
        candidate: Candidate,
        facts: dict[str, Any],
        *,
        save_to: Path,
        threads: int,
        rungs: Sequence[float] = (),
        report: Report | None = None,
        accumulation: int = 1,
        final: bool = False,
        team: Any = None,
    ) -> dict[str, Any]: ...
    def assist(
        self,
        candidate: Candidate,
        facts: dict[str, Any],
        *,
        team: Any,
        threads: int,
        rungs: Sequence[float] = (),
        accumulation: int = 1,
    ) -> None: ...
    def latency(
        self,
        model: Path | Candidate,
        facts: dict[str, Any],
        *,
        max_length: int,
        threads: int,
        rounds: int,
        throughput: int | None,
        onnx: bool,
        graphs: bool,
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Job:
    """One candidate to train: its trial's number, where its weights go, and after which
    fractions of its training it reports.

    `finalist` is the number of the trial that this one trains again, `longer` times as long."""

    number: int
    candidate: Candidate
    save_to: Path
    rungs: tuple[float, ...] = ()
    finalist: int | None = None
    longer: float = 1.0

    @property
    def checkpoints(self) -> Path:
        """Where its training leaves checkpoints while it runs."""
        return self.save_to.parent / CHECKPOINTS

    def progress(self) -> set[str]:
        """What its training has left there so far."""
        return {path.name for path in self.checkpoints.glob("*/checkpoint-*")}


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `found` is what the trainee measured; `reason` and `error` say why not."""

    state: State
    found: dict[str, Any]
    reason: str | None = None
    error: dict[str, str] | None = None


@dataclass(frozen=True)
class Reached:
    """What a training has come to at a rung."""

    rung: int
    metrics: dict[str, float]

    def described(self) -> str:
        """Why a trial that was stopped here is not complete."""
        return f"stopped at rung {self.rung}, step {self.metrics['step']}"


class Paused:
    """A job in a thread of its own that waits at each rung until it is told to go on.

    So that a worker can hand its rungs over one by one, and a job in the middle of the library's
    training loop can wait for an answer.
    """

    def __init__(self, run: Callable[[Report], Outcome]) -> None:
        self._events: queue.Queue[Reached | Outcome] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True)

    def resume(self) -> Reached | Outcome:
        """Runs on to the next rung or to the end."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._answers.put(True)
        return self._events.get()

    def stop(self) -> None:
        """Ends the job at the rung where it waits."""
        self._answers.put(False)
        self._thread.join()

    def _work(self, run: Callable[[Report], Outcome]) -> None:
        self._events.put(run(self._report))

    def _report(self, rung: int, metrics: dict[str, float]) -> bool:
        self._events.put(Reached(rung, metrics))
        return self._answers.get()


def attempt(
    evaluate: Evaluate,
    job: Job,
    facts: dict[str, Any],
    resources: Resources,
    report: Report | None = None,
    beat: Beat | None = None,
) -> Outcome:
    """Runs `job` and never raises, so that the worker stays warm whatever the candidate does.

    A job with rungs tells them to `report`. One that runs out of memory is tried once more with
    its batches in parts. Checkpoints are gone when it ends.
    """
    options: dict[str, Any] = {"save_to": job.save_to, "threads": resources.cpu}
    if job.rungs:
        options |= {"rungs": job.rungs, "report": report}
    if job.finalist is not None:
        options |= {"final": True}
    if resources.checkpoint_s is not None:
        options |= {"checkpoints": job.checkpoints, "checkpoint_s": resources.checkpoint_s}
    if beat is not None:
        options |= {"beat": beat}
    outcome = _attempt_once(evaluate, job, facts, options)
    parts = _parts(job.candidate.recipe.batch_size)
    if (outcome.error or {}).get("kind") == OutOfMemory.__name__ and parts > 1:
        outcome = _attempt_once(evaluate, job, facts, options | {"accumulation": parts})
    shutil.rmtree(job.checkpoints, ignore_errors=True)
    return outcome


def _attempt_once(
    evaluate: Evaluate, job: Job, facts: dict[str, Any], options: dict[str, Any]
) -> Outcome:
    try:
        found = evaluate(job.candidate, facts, **options)
    except StoppedAtRung as stop:
        return stopped(stop)
    except CandidateFault as fault:
        return Outcome("pruned", {}, reason=str(fault), error=describe(fault))
    except Exception as error:
        reason = DISK_FULL if is_disk_full(error) else None
        return Outcome("failed", {}, reason=reason, error=describe(error))
    return Outcome("complete", found)


def _parts(batch_size: int) -> int:
    """The fewest equal parts, more than one, of a batch: two if it is even."""
    return next((k for k in range(2, batch_size + 1) if batch_size % k == 0), 1)


def is_disk_full(error: Exception) -> bool:
    """Whether nothing more can be written; safetensors says so in words only."""
    return getattr(error, "errno", None) in NO_SPACE or "os error 28" in str(error)


def stopped(why: object) -> Outcome:
    """How a job ended that the search stopped at a rung."""
    return Outcome("pruned", {}, reason=str(why))


def describe(error: BaseException) -> dict[str, str]:
    """An error as plain data for the storage."""
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def missing_value(metrics: dict[str, Any], objectives: tuple[str, ...]) -> str | None:
    """Why `metrics` cannot be told to the sampler, or None if they can."""
    for name in objectives:
        value = metrics.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return f"{name} is {value!r}"
        if not math.isfinite(value):
            return f"{name} is {value}"
    return None
