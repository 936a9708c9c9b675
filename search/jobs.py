"""What passes between the driver and a worker, and how a worker runs one job."""

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from spaces.errors import CandidateFault
from spaces.recipe import Candidate

State = Literal["complete", "pruned", "failed"]


class Trainee(Protocol):
    """What a search needs of a model and its task. `trainers.evaluation` has the real one."""

    def prepare(self, max_length: int, *, similarity: bool = False) -> dict[str, Any]: ...
    def check(self, candidates: Sequence[Candidate], facts: dict[str, Any]) -> None: ...
    def inspect(self, candidate: Candidate, facts: dict[str, Any]) -> dict[str, float]: ...
    def evaluate(
        self, candidate: Candidate, facts: dict[str, Any], *, save_to: Path, threads: int
    ) -> dict[str, Any]: ...
    def latency(
        self,
        folder: Path,
        facts: dict[str, Any],
        *,
        max_length: int,
        threads: int,
        rounds: int,
        throughput: int | None,
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Job:
    """One candidate to train: its trial's number and where its weights go."""

    number: int
    candidate: Candidate
    save_to: Path


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `found` is what the trainee measured; `reason` and `error` say why not."""

    state: State
    found: dict[str, Any]
    reason: str | None = None
    error: dict[str, str] | None = None


def attempt(trainee: Trainee, job: Job, facts: dict[str, Any], threads: int) -> Outcome:
    """Runs `job` and never raises, so that the worker stays warm whatever the candidate does."""
    try:
        found = trainee.evaluate(job.candidate, facts, save_to=job.save_to, threads=threads)
    except CandidateFault as fault:
        return Outcome("pruned", {}, reason=str(fault), error=describe(fault))
    except Exception as error:
        return Outcome("failed", {}, reason=None, error=describe(error))
    return Outcome("complete", found)


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
