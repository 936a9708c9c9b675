"""Ends a worker whose job hangs, so that the search goes on with another."""

import faulthandler
import time
from typing import IO, Any

from sharetune.search.config import Resources
from sharetune.search.jobs import Job, Outcome

OVERDUE, STUCK = "overdue.txt", "stuck.txt"


class Watch:
    """Inside, this process ends, wherever it hangs, once the job takes longer than its time limit
    or a step of its training longer than `heartbeat_s`.

    A training that is longer than the search's has so many times the limit. Where every thread
    stood is written beside the job's weights, and is what the next worker finds.
    """

    def __init__(self, job: Job, resources: Resources) -> None:
        limit = resources.time_limit_s
        self.limit_s = None if limit is None else limit * job.longer
        self.heartbeat_s = resources.heartbeat_s
        self.folder = job.save_to.parent
        self._files: dict[str, IO[str]] = {}
        self._until = float("inf")

    def verdict(self) -> Outcome | None:
        """How the job ended, if an earlier worker was ended over it."""
        why = {
            OVERDUE: f"took longer than {self.limit_s:g} s" if self.limit_s else "",
            STUCK: f"made no step within {self.heartbeat_s:g} s" if self.heartbeat_s else "",
        }
        for name, reason in why.items():
            trace = self.folder / name
            if reason and trace.exists() and trace.stat().st_size:
                text = trace.read_text("utf-8", "replace")
                error = {"kind": "TimeLimit", "message": reason, "traceback": text}
                return Outcome("pruned", {}, reason=reason, error=error)
        return None

    def __enter__(self) -> "Watch":
        if self.limit_s is not None or self.heartbeat_s is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files = {name: (self.folder / name).open("w") for name in (OVERDUE, STUCK)}
        if self.limit_s is not None:
            self._until = time.monotonic() + self.limit_s
        self.beat(False)
        return self

    def __exit__(self, *_: Any) -> None:
        faulthandler.cancel_dump_traceback_later()
        for name, file in self._files.items():
            file.close()
            (self.folder / name).unlink(missing_ok=True)

    def beat(self, in_step: bool) -> None:
        """A step of the training begins, or has ended."""
        left = max(0.001, self._until - time.monotonic())
        if in_step and self.heartbeat_s is not None and self.heartbeat_s < left:
            self._end_after(self.heartbeat_s, STUCK)
        elif self.limit_s is not None:
            self._end_after(left, OVERDUE)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _end_after(self, seconds: float, trace: str) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._files[trace])
