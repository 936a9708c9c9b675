"""End a worker whose job hangs, from inside, so that the search goes on with another."""

import faulthandler
import time
from pathlib import Path
from typing import IO

from sharetune.search.outcome import Outcome
from sharetune.search.sections import Resources
from sharetune.spaces.evaluator import Job


def note_stopped(job: Job, why: str) -> None:
    """Note for the job's verdict that its worker was ended without having made a step."""
    job.folder.path.mkdir(parents=True, exist_ok=True)
    job.folder.stuck.write_text(f"{why}\n", "utf-8")


class Watchdog:
    """A context that ends this process if the job exceeds its time limit, wherever it hangs.

    Also if a step of its training takes longer than `heartbeat_s`. A retraining that is `longer`
    than the search's gets that multiple of the limit. All threads' stacks are written next to the
    job's weights, where the driver finds them. A process that has stopped is the driver's to end
    (`pulse.py`).
    """

    def __init__(self, job: Job, resources: Resources) -> None:
        limit = resources.time_limit_s
        self.limit_s = None if limit is None else limit * job.longer
        self.heartbeat_s = resources.heartbeat_s
        self.folder = job.folder
        self._traces: dict[Path, IO[str]] = {}
        self._until = float("inf")

    def verdict(self) -> Outcome | None:
        """Return the outcome of the job if a worker was ended over it, else None."""
        why = {}
        if self.limit_s is not None:
            why[self.folder.overdue] = f"took longer than {self.limit_s:g} s"
        if self.heartbeat_s is not None:
            why[self.folder.stuck] = f"made no step within {self.heartbeat_s:g} s"
        for trace, reason in why.items():
            if trace.exists() and trace.stat().st_size:
                text = trace.read_text("utf-8", "replace")
                error = {"kind": "TimeLimit", "message": reason, "traceback": text}
                return Outcome("pruned", reason=reason, error=error)
        return None

    def __enter__(self) -> "Watchdog":
        if self.limit_s is not None or self.heartbeat_s is not None:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            traces = (self.folder.overdue, self.folder.stuck)
            self._traces = {trace: trace.open("w") for trace in traces}
        if self.limit_s is not None:
            self._until = time.monotonic() + self.limit_s
        self.beat(False)
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        for trace, file in self._traces.items():
            file.close()
            trace.unlink(missing_ok=True)

    def beat(self, in_step: bool) -> None:
        """Note that a step of the training begins or has ended."""
        left = max(0.001, self._until - time.monotonic())
        if in_step and self.heartbeat_s is not None and self.heartbeat_s < left:
            self._end_after(self.heartbeat_s, self.folder.stuck)
        elif self.limit_s is not None:
            self._end_after(left, self.folder.overdue)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _end_after(self, seconds: float, trace: Path) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._traces[trace])
