"""Notice workers that have stopped, from the driver: a stopped process cannot end itself.

Each worker counts up in a file of the run folder, as long as it lives. The driver looks whether the
counts go on, by its own clock, and ends a process whose count does not. Knows no Ray.
"""

import json
import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from sharetune.spaces.run_folder import RunFolder

PERIOD_S = 0.5
"""Seconds between two counts, and between two looks at them."""

GRACE_S = 4.0
"""Seconds beyond the heartbeat's limit: a worker may be in native code, or its disk be slow."""


@dataclass(frozen=True)
class Beat:
    """Sign of life that a worker writes: a count, its process and node, its job's number."""

    count: int
    pid: int
    node: str
    job: int


class Pulse:
    """A thread that counts up in a file as long as this process lives."""

    def __init__(self, run: RunFolder, node: str) -> None:
        self.path = run.pulses / f"{node}-{os.getpid()}"
        self._last = Beat(0, os.getpid(), node, -1)
        self._lock = threading.Lock()
        threading.Thread(target=self._count, daemon=True).start()

    def begin(self, job: int) -> None:
        """Note the number of the job that this process runs from now on."""
        self._write(job)

    def _count(self) -> None:
        while self.path.parent.is_dir():
            self._write(self._last.job)
            time.sleep(PERIOD_S)

    def _write(self, job: int) -> None:
        with self._lock, suppress(OSError):  # the disk is full, or the search is over
            self._last = replace(self._last, count=self._last.count + 1, job=job)
            draft = self.path.with_suffix(".part")
            draft.write_text(json.dumps(vars(self._last)))
            draft.replace(self.path)


@dataclass
class PulseWatch:
    """The driver's look at the counts of all workers; one has stopped after `limit_s` seconds.

    A context that makes the folder of their files, and removes it.
    """

    run: RunFolder
    limit_s: float
    _seen: dict[Path, tuple[Beat, float]] = field(default_factory=dict)
    _next: float = 0.0

    def __enter__(self) -> "PulseWatch":
        shutil.rmtree(self.run.pulses, ignore_errors=True)
        self.run.pulses.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.run.pulses, ignore_errors=True)

    def stopped(self) -> list[Beat]:
        """Return the last beats of workers that have stopped since; each is returned once."""
        now = time.monotonic()
        if now < self._next:
            return []
        self._next = now + PERIOD_S
        return [beat for path in self.run.pulses.glob("*-*") if (beat := self._look(path, now))]

    def _look(self, path: Path, now: float) -> Beat | None:
        if path.suffix == ".part":
            return None
        try:
            beat = Beat(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        before, since = self._seen.get(path, (None, now))
        if before is None or before.count != beat.count:
            self._seen[path] = beat, now
        elif now - since > self.limit_s:
            del self._seen[path]
            path.unlink(missing_ok=True)
            return beat
        return None


def end_process(pid: int) -> bool:
    """End a worker's process on this machine, stopped or not; say whether it was still there."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z" or not command.startswith(b"ray::"):
            return False
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return False
    return True
