"""A trainee that answers in microseconds, so that search, store and report are tested fast."""

import json
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from sharetune.search.config import StudyConfig, validate
from sharetune.spaces.errors import CandidateFault, OutOfMemory, StoppedAtRung
from sharetune.spaces.recipe import Candidate

DEPTH = 6


@dataclass(frozen=True)
class FakeTrainee:
    """Accuracy falls with what is shared. `faults` gives special ways to end by learning rate
    (rounded up to one digit), and `folder`, where given, counts the trainings. A learning rate a
    decade from 1e-4 does this `harm` to accuracy, and a seed adds 0.1 points of luck."""

    faults: tuple[tuple[str, str], ...] = ()
    folder: Path | None = None
    seconds: float = 0.0
    harm: float = 0.02

    def prepare(self, max_length, *, similarity=False):
        return {
            "labels": ["a", "b"],
            "stacks": {"layers": {"depth": DEPTH, "heads": 12, "neurons": 1536}},
        }

    def check(self, candidates, facts):
        """Everything goes."""

    def inspect(self, candidate: Candidate, facts):
        saved = sum(
            (len(g.layers) - (0 if g.form.removes_layers else 1)) * (g.form.share() or 1.0)
            for g in candidate.plan.groups
        )
        removed = sum(len(g.layers) for g in candidate.plan.groups if g.form.removes_layers)
        stored = 22_000_000 - 1_700_000 * saved
        return {
            "parameters": stored,
            "stack_parameters": stored - 12_000_000,
            "bytes": 4 * stored,
            "flops": 1e9 * (DEPTH - removed) / DEPTH,
            "effective_ratio": saved / (DEPTH - 1),
        }

    def evaluate(
        self,
        candidate: Candidate,
        facts,
        *,
        save_to: Path,
        threads: int,
        rungs=(),
        report=None,
        accumulation=1,
        final=False,
        **_,
    ):
        time.sleep(self.seconds)
        if self.folder is not None:
            (self.folder / f"{time.time_ns()}.json").write_text(json.dumps(candidate.written()))
        stored = self.inspect(candidate, facts)["parameters"]
        decades = abs(math.log10(candidate.recipe.learning_rate) + 4)
        accuracy = 0.95 - (22e6 - stored) / 22e6 - self.harm * decades
        accuracy += 0.001 * candidate.recipe.seed
        for rung, fraction in enumerate(rungs):
            metrics = {"accuracy": accuracy * fraction, "step": round(8 * fraction)}
            if not report(rung, metrics):
                raise StoppedAtRung(f"stopped at rung {rung}, step {metrics['step']}")
        accuracy = self._fault(str(candidate.plan), accuracy, accumulation)
        save_to.mkdir(parents=True, exist_ok=True)
        (save_to / "weights").write_text(str(stored))
        return {
            "metrics": {"accuracy": accuracy, "macro_f1": accuracy},
            "per_class": {"a": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 10}},
            "confusion": [[10, 0], [0, 10]],
            "curve": [[1, 0.7]],
            "seconds": {"train": 0.1, "evaluate": 0.1, "total": 0.2},
            "circumstances": {
                "seed": candidate.recipe.seed,
                "steps": 1,
                "accumulation": accumulation,
            },
        }

    def latency(self, model, facts, *, max_length, threads, rounds, **options):
        median = 10.0 if isinstance(model, Path) else 1e-8 * self.inspect(model, facts)["flops"]
        if self.folder is not None:
            (self.folder / f"{time.time_ns()}.timed").write_text(f"{time.time()}")
        one = {"median_ms": median, "low_ms": 9.0, "high_ms": 11.0}
        one |= {"ratio": 1.0, "ratio_low": 0.9, "ratio_high": 1.1}
        return {
            "forms": {"stored": one, "materialised": one},
            "unshared_ms": 10.0,
            "batch_size": 1,
            "max_length": max_length,
            "rounds": rounds,
            "device": "fake",
            "threads": threads,
        }

    def _fault(self, plan: str, accuracy, accumulation):
        for part, fault in self.faults:
            if part not in plan:
                continue
            if fault == "raise":
                raise RuntimeError("matrix on fire")
            if fault == "fault":
                raise CandidateFault("the loss is nan at step 3")
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "hang":
                time.sleep(3600)
            if fault == "memory" or (fault == "whole batches" and accumulation == 1):
                raise OutOfMemory("out of memory: tried to allocate 2 GiB")
            if fault == "whole batches":
                return accuracy
            if fault == "interrupt":
                raise KeyboardInterrupt
            return {"nan": math.nan, "none": None}[fault]
        return accuracy


def study(**changes) -> StudyConfig:
    """A small study over the fake, run in this process."""
    data = {
        "name": "fake",
        "model": "fake-model",
        "task": {"name": "text-classification", "train": "t.csv"},
        "executor": "local",
        "budget": {"trials": 10},
        "space": {
            "plan": [
                {
                    "layers": {"within": "0..-1", "min": 2},
                    "form": {"choices": ["tie", {"bank": {"ratio": {"low": 0.1, "high": 0.9}}}]},
                }
            ],
            "recipe": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "steps": 1},
        },
    }
    return validate(data | changes, "study.yaml")
