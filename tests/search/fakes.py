"""An evaluator that answers in microseconds, so that search, study and report are tested fast."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

from sharetune.spaces.errors import StoppedAtRung
from sharetune.spaces.evaluator import Exchanged, Measured, PlanScore, Scores
from sharetune.spaces.latency import Compared, Latencies, Latency
from sharetune.spaces.stack_shape import StackShape
from tests.search.faults import fault

DEPTH = 6
REPORT = {"a": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 10}}


@dataclass(frozen=True)
class FakeEvaluator:
    """Accuracy falls with what is shared. `faults` gives special ways to end by words of the plan,
    and `folder`, where given, counts the trainings. A learning rate a decade from 1e-4 does this
    `harm` to accuracy, and a seed adds 0.1 points of luck. Only where it is `pretrained` does a
    search score edits first."""

    faults: tuple[tuple[str, str], ...] = ()
    folder: Path | None = None
    seconds: float = 0.0
    harm: float = 0.02
    pretrained: bool = False
    labels = ("a", "b")
    stacks = {"layers": StackShape(DEPTH, 12, 1536)}  # noqa: RUF012
    rows = {}  # noqa: RUF012
    widths = {"layers": 384}  # noqa: RUF012
    identity = {"model": "fake", "data": "fake"}  # noqa: RUF012

    def refuse(self, candidates):
        """Everything goes."""

    def rehearse(self, candidate, resources):
        """Everything can be trained, and nobody knows how fast."""

    def steps(self, recipe):
        return recipe.steps

    def sizes(self, candidate):
        groups = candidate.plan.groups
        removed = sum(len(g.layers) for g in groups if g.form.removes_layers)
        saved = sum(
            (len(g.layers) - (not g.form.removes_layers)) * (g.form.share() or 1.0) for g in groups
        )
        stored = 22_000_000 - 1_700_000 * saved
        sizes = {"parameters": stored, "stack_parameters": stored - 12_000_000, "bytes": 4 * stored}
        sizes["flops"] = 1e9 * (DEPTH - removed) / DEPTH
        return sizes | {"effective_ratio": saved / (DEPTH - 1)}

    def score(self, candidate, resources):
        """Single effects add up; they rise with the layer, and shared ones are twice as large."""
        time.sleep(self.seconds)
        if isinstance(candidate, Exchanged):
            self._count("exchanged", str(candidate.exchange))
            return PlanScore(0.3 - 0.01 * candidate.exchange.layers[0])
        self._count("scored", str(candidate.plan))
        costs = [
            (0.1 + 0.01 * layer) * (1 + g.form.shares)
            for g in candidate.plan.groups
            for layer in g.layers
        ]
        return PlanScore(round(sum(costs), 9), 0.5 + sum(costs))

    def evaluate(self, job, resources, listener):
        time.sleep(self.seconds)
        candidate, parts = job.candidate, resources.accumulation
        self._count("json", json.dumps(candidate.written()))
        stored = self.sizes(candidate)["parameters"]
        decades = abs(math.log10(candidate.recipe.learning_rate) + 4)
        accuracy = 0.95 - (22e6 - stored) / 22e6 - self.harm * decades
        accuracy += 0.001 * candidate.recipe.seed
        for rung, fraction in enumerate(job.rungs):
            step = round(8 * fraction)
            if not listener.rung(rung, {"accuracy": accuracy * fraction, "step": step}):
                raise StoppedAtRung(f"stopped at rung {rung}, step {step}")
        accuracy = fault(self.faults, str(candidate.plan), accuracy, parts)
        job.folder.model.mkdir(parents=True, exist_ok=True)
        (job.folder.model / "weights").write_text(str(stored))
        scores = Scores({"accuracy": accuracy, "macro_f1": accuracy}, REPORT, [[10, 0], [0, 10]])
        where = {"seed": candidate.recipe.seed, "steps": 1, "accumulation": parts}
        return Measured(scores, [[1, 0.7]], {"train": 0.1, "evaluate": 0.1, "total": 0.2}, where)

    def latency(self, model, request):
        median = 10.0 if isinstance(model, Path) else 1e-8 * self.sizes(model)["flops"]
        self._count("timed", f"{time.time()}")
        one = Latency(median, 9.0, 11.0, 1.0, 0.9, 1.1)
        forms = {"stored": one, "materialised": one}
        single = Compared(forms, 10.0, request.rounds, 0.0, 0.0, "a fake clock")
        return Latencies(single, "one forward pass", 0, request, "fake")

    def _count(self, kind, text):
        if self.folder is not None:
            (self.folder / f"{time.time_ns()}.{kind}").write_text(text)
