"""Measure the search process's own cost a trial, with a fake evaluation: seconds, memory, disk.

    python benchmarks/asking.py [--trials 10000] [--samplers guided tpe nsga2 random]

Runs the project's search over its SQLite storage with 8 jobs in flight; every trial carries a
curve of 50 points and a report of 20 classes. Prints, for every thousand trials, the median
milliseconds of choosing and recording a trial (ask) and of recording its end (tell), the process's
resident memory with its growth a trial since the first thousand, and the storage's size.
"""

import argparse
import math
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.search.config import StudyConfig
from sharetune.search.outcome import Outcome
from sharetune.search.search import Search
from sharetune.search.study.writer import StudyWriter
from sharetune.spaces.evaluator import Measured, Scores
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder
from sharetune.spaces.stack_shape import StackShape

SHAPES = {"layers": StackShape(depth=12, heads=12, neurons=3072)}
IN_FLIGHT = 8
SPACE = {
    "plan": [
        {
            "layers": {"within": "0..-1", "min": 2},
            "count": {"low": 1, "high": 3},
            "parts": {"choices": [["attention", "ffn"], ["attention"], ["ffn"]]},
            "form": {
                "choices": ["tie", {"bank": {"ratio": {"low": 0.1, "high": 0.9, "step": 0.1}}}]
            },
        }
    ],
    "recipe": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "steps": 100},
}


class Counted:
    """An evaluator whose sizes follow from how many matrices a plan saves."""

    stacks = SHAPES

    def sizes(self, candidate: Candidate) -> dict[str, float]:
        """Return what a real evaluator counts on the meta device."""
        saved = sum(
            (len(g.layers) - 1) * g.form.share() * len(g.parts) for g in candidate.plan.groups
        )
        parameters = 110e6 - 1.2e6 * saved
        return {"parameters": parameters, "bytes": 4 * parameters, "flops": 1e10 - 1e7 * saved}


def measured(exact: dict[str, float], rate: float) -> Measured:
    """Return what a worker measures of one trial."""
    accuracy = 0.9 - (1.1e8 - exact["parameters"]) / 3e8 - abs(math.log10(rate) + 4) / 20
    labels = [f"label {i}" for i in range(20)]
    row = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 100}
    metrics = {"accuracy": accuracy, "macro_f1": accuracy, "eval_loss": 1 - accuracy}
    return Measured(
        Scores(metrics, dict.fromkeys(labels, row), [[5] * 20 for _ in labels]),
        curve=[[10 * i, 1 / (i + 1)] for i in range(50)],
        seconds={"train": 1.0, "evaluate": 0.1, "total": 1.1},
        circumstances={"seed": 0, "steps": 100, "device": "fake", "threads": 1},
    )


def search_of(run: Path, sampler: str, trials: int) -> Search:
    """Return a search over an empty study."""
    config = StudyConfig(
        name="asking",
        model="fake",
        task={"name": "fake"},
        space=SPACE,
        anchors=(),
        sampler=sampler,
        budget={"trials": trials},
        keep="none",
    )
    reference = {"accuracy": 0.0, "parameters": 1.21e8, "flops": 1.1e10}
    attributes = {record.OBJECTIVES: list(config.objectives), record.REFERENCE: reference}
    writer = StudyWriter.create(run, "asking", attributes)
    evaluator: Any = Counted()
    return Search(config, writer, evaluator, RunFolder(run))


def memory_mib() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(sampler: str, trials: int) -> None:
    """One study, reported by thousands."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch)
        search = search_of(run, sampler, trials)
        jobs, asks, tells = [], [], []
        first = 0.0
        for number in range(1, trials + 1):
            start = time.perf_counter()
            jobs.append(search.next())
            asked = time.perf_counter()
            asks.append(asked - start)
            if len(jobs) == IN_FLIGHT:
                job = jobs.pop(0)
                sizes = search.evaluator.sizes(job.candidate)
                rate = job.candidate.recipe.learning_rate
                outcome = Outcome("complete", measured(sizes, rate))
                start = time.perf_counter()
                search.finish(job, outcome)
                tells.append(time.perf_counter() - start)
            if number % 1000 == 0 or number == trials:
                first = first or memory_mib()
                grown = (memory_mib() - first) * 1024 / max(1, number - 1000)
                size = (run / record.STORAGE).stat().st_size / 2**20
                print(
                    f"{sampler:8} {number:6} trials: ask {1e3 * median(asks[-1000:]):6.1f} ms, "
                    f"tell {1e3 * median(tells[-1000:]):5.1f} ms, memory {memory_mib():6.0f} MiB "
                    f"(+{grown:.1f} KiB a trial), storage {size:.0f} MiB",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10000)
    parser.add_argument("--samplers", nargs="+", default=["guided", "tpe", "nsga2", "random"])
    options = parser.parse_args()
    for name in options.samplers:
        main(name, options.trials)
