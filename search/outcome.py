"""Describe how a job ended, as the study records it."""

import errno
import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sharetune.spaces.evaluator import Measured, Metrics
from sharetune.spaces.objectives import OBJECTIVES, ROUNDING

DISK_FULL = "disk full"
"""Reason of a job that ended because nothing more could be written."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and of a used-up quota."""

NO_SPACE_WORDS = ("os error 28", "database or disk is full")
"""Words by which safetensors and SQLite tell that a disk is full."""

State = Literal["complete", "pruned", "failed"]
"""Measured; the candidate's own fault or stopped; the machinery's fault."""


@dataclass(frozen=True)
class Outcome:
    """The end of a job: with its measurements, or with a reason and perhaps an error."""

    state: State
    measured: Measured | None = None
    reason: str | None = None
    error: dict[str, str] | None = None


@dataclass(frozen=True)
class Reached:
    """The metrics of a training at a rung."""

    rung: int
    metrics: Metrics

    def described(self) -> str:
        """Say why a trial that was stopped here is not complete."""
        return f"stopped at rung {self.rung}, step {self.metrics['step']}"


def stopped(why: object) -> Outcome:
    """Return the outcome of a job that the search stopped at a rung."""
    return Outcome("pruned", reason=str(why))


def describe(error: BaseException) -> dict[str, str]:
    """Return an error as plain data for the storage."""
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def is_disk_full(error: BaseException) -> bool:
    """Say whether an error means a full disk; some libraries say so in their message only."""
    return getattr(error, "errno", None) in NO_SPACE or any(
        words in str(error) for words in NO_SPACE_WORDS
    )


def unreached(metrics: Mapping[str, Any], limits: Mapping[str, float]) -> str | None:
    """Say which number that a model must reach is worse than its limit, or return None."""
    for name, limit in limits.items():
        gain = OBJECTIVES[name].gain(metrics.get(name, math.nan), limit)
        if not gain >= -ROUNDING:
            return f"{name} is {metrics.get(name)!r}, and the limit {limit:g}"
    return None


def missing_value(metrics: Mapping[str, object], objectives: tuple[str, ...]) -> str | None:
    """Say which objective has no finite number in `metrics`, or return None."""
    for name in objectives:
        value = metrics.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return f"{name} is {value!r}"
        if not math.isfinite(value):
            return f"{name} is {value}"
    return None
