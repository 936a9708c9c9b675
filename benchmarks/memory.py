"""Measure the resident memory of the search process and of its worker over many trials.

    python benchmarks/memory.py [--trials 2000] [--executor ray|local] [--every 200]

A real search: a random BERT of four layers, width 32, trained for two steps a trial on one warm Ray
worker; `local` trains in the search process itself. Prints both processes' memory after every
`every` trials and, against the first of these lines, the largest growth in per cent. Both processes
have run their 200 first trials by then: libraries are loaded, caches are filled.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from sharetune.results.reading.trial import Trial
from sharetune.search.config import StudyConfig
from sharetune.search.live import Live
from sharetune.search.run import run
from sharetune.search.study_file import validate

ROOT = Path(__file__).parent.parent
ROWS = 48
PAGE_MIB = resource.getpagesize() / 2**20


def study(folder: Path, trials: int, executor: str) -> StudyConfig:
    """A study of the tiny checkpoint, with a space that 2,000 trials do not exhaust."""
    task = {"name": "text-classification"}
    task |= {split: str(folder / f"{split}.csv") for split in ("train", "test")}
    banks = {"bank": {"ratio": {"low": 0.25, "high": 0.75, "step": 0.25}}}
    plan = {"layers": {"within": "0..-1", "min": 2}, "form": {"choices": ["tie", banks, "drop"]}}
    rate = {"low": 1e-4, "high": 1e-2, "log": True}
    data = {
        "name": "memory",
        "model": str(folder / "model"),
        "task": task,
        "budget": {"trials": trials},
        "executor": executor,
        "resources": {"workers": 1} if executor == "ray" else {},
        "scoring": "off",
        "latency": {"rounds": 0},
        "keep": "none",
        "space": {
            "plan": [plan],
            "recipe": {"steps": 2, "learning_rate": rate, "batch_size": 4, "max_length": 12},
        },
    }
    return validate(data, "memory")


def resident_mib(process: int | str) -> float:
    """Resident memory of a process, pages that it shares with others included."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE_MIB


def workers() -> list[int]:
    """Processes of this machine that train for this one, by their names and their parents."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in numbers if _name(pid).startswith("ray::Worker") and _is_ours(pid)]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(status.rpartition(")")[2].split()[1])
    return False


@dataclass
class Readings:
    """Reads memory after every `every` trials that ended, and prints it."""

    every: int
    began: float = field(default_factory=time.monotonic)
    ended: int = 0
    lines: list[dict[str, float]] = field(default_factory=list)

    def __call__(self, trial: Trial) -> None:
        """Count a trial that ended."""
        self.ended += 1
        if self.ended % self.every == 0:
            found = {"driver": resident_mib("self")}
            found |= {"worker": max(map(resident_mib, at))} if (at := workers()) else {}
            self.lines.append(found)
            text = ", ".join(f"{name} {mib:.1f} MiB" for name, mib in found.items())
            seconds = time.monotonic() - self.began
            print(f"{self.ended:6} trials: {text} ({seconds:.0f} s)", flush=True)

    def growth(self) -> dict[str, float]:
        """Largest memory of each process after the first line, in per cent above it."""
        first = self.lines[0]
        return {
            name: 100 * (max(line.get(name, 0.0) for line in self.lines) / mib - 1)
            for name, mib in first.items()
        }


def main(trials: int, executor: str, every: int) -> None:
    """One search."""
    sys.path.insert(0, str(ROOT))
    from tests.checkpoint import write_study_data

    readings = Readings(every)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_study_data(Path(scratch), ROWS)
        config = study(folder, trials, executor)
        run(config, out=folder / "run", live=Live(callbacks=(readings,)))
    grown = ", ".join(f"{name} {percent:+.1f} %" for name, percent in readings.growth().items())
    print(f"largest growth after the first {every} of {trials} trials: {grown}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--executor", choices=["ray", "local"], default="ray")
    parser.add_argument("--every", type=int, default=200)
    options = parser.parse_args()
    main(options.trials, options.executor, options.every)
