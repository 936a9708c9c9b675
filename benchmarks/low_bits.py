"""Measure the loss of a shared model in 8 and 4 bits, trained with and without rounded weights.

    python examples/bbc-news/prepare.py
    python benchmarks/planning/materials.py MATERIALS
    python benchmarks/low_bits.py MATERIALS [--out FILE.jsonl] [--seeds 3] [--steps 80]
                                            [--plans bank loop]
    python benchmarks/low_bits.py MATERIALS --table [--out FILE.jsonl]

MiniLM with its six layers in a bank (80 % of the units), and with its last three layers run twice.
All trainings take as many steps in all. How many of them are aware is chosen on BBC News, by the
loss on its test split, seeds from 100; the figures are of sections of packages, seeds from 0.
Appends a JSON line a training; what is there already is not run again.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.evaluator import Job, JobResources, Unheard
from sharetune.spaces.run_folder import RunFolder
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import read_task

EXAMPLE = Path(__file__).parent.parent / "examples" / "bbc-news"
BASE = {"learning_rate": 3e-4, "warmup_ratio": 0.1, "batch_size": 16, "max_length": 32}
PLANS = {
    "bank": SharingPlan.range(0, 5, 0.8),
    "loop": SharingPlan.model_validate(
        {"groups": [{"layers": "3..5", "times": 2, "assign": "each"}]}
    ),
}
FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}
AWARE = (0.1, 0.3, 1.0)
"""Steps with rounded weights, as a fraction of those before them."""

CHOOSING, REPORTING = "news", "sections"
FIRST_SEEDS = {CHOOSING: 100, REPORTING: 0}


def aware(fraction: float) -> str:
    """Return the name of int4 with so much training that is aware of it."""
    return f"int4, aware {fraction:g}"


def compression(name: str) -> Compression:
    """Return the compression of a format, or of :func:`aware`."""
    if name in FORMATS:
        return Compression.model_validate(FORMATS[name])
    return Compression(quantize="int4", aware=True, recover=float(name.split()[-1]))


def train_all(data: str, folder: Path, names: list[str], options: argparse.Namespace) -> None:
    """Run what is missing in the file, of one data set."""
    files = {split: str(folder / f"{split}.csv") for split in ("train", "test")}
    task = read_task({"name": "text-classification", **files})
    with tempfile.TemporaryDirectory() as scratch:
        evaluator = CandidateEvaluator.prepare(
            str(EXAMPLE / "model"), task, Path(scratch) / "cache", int(BASE["max_length"])
        )
        first = FIRST_SEEDS[data]
        for seed in range(first, first + options.seeds):
            for plan in options.plans:
                for name in names:
                    key = {"data": data, "plan": plan, "format": name, "seed": seed}
                    if not any(key.items() <= row.items() for row in rows(options.out)):
                        found = trained(evaluator, key, options.steps, Path(scratch))
                        with options.out.open("a") as file:
                            file.write(json.dumps(key | found) + "\n")


def trained(
    evaluator: CandidateEvaluator, key: dict[str, Any], steps: int, scratch: Path
) -> dict[str, float]:
    """Train and measure one candidate, in `steps` steps with those that are aware."""
    small = compression(key["format"])
    before = round(steps / (1 + small.recover))
    recipe = Recipe.model_validate(BASE | {"steps": before, "seed": key["seed"]})
    wanted = Candidate(plan=PLANS[key["plan"]], compression=small, recipe=recipe)
    candidate = wanted.bound(evaluator.stacks)
    job = Job(0, candidate, RunFolder(scratch).trial(0))
    metrics = evaluator.evaluate(job, JobResources(), Unheard()).scores.metrics
    size = evaluator.sizes(candidate)["bytes"]
    return {"bytes": size, **{name: metrics[name] for name in ("accuracy", "eval_loss")}}


def rows(out: Path) -> list[dict[str, Any]]:
    """Return what is in the file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def chosen(out: Path) -> str:
    """Return the fraction whose mean loss over plans and seeds is least where it is chosen."""
    found = [row for row in rows(out) if row["data"] == CHOOSING]
    losses = {
        aware(fraction): [row["eval_loss"] for row in found if row["format"] == aware(fraction)]
        for fraction in AWARE
    }
    return min(losses, key=lambda name: mean(losses[name]))


def table(out: Path) -> Iterator[str]:
    """Yield a line for each data set, plan and format, with what it costs by the seed's float32."""
    yield "| data | plan | format | MB | accuracy | loss | more loss than float32 | seeds |"
    yield "|" + "---|" * 8
    found = rows(out)
    keys = dict.fromkeys((row["data"], row["plan"], row["format"]) for row in found)
    for data, plan, name in sorted(keys):
        own = [r for r in found if (r["data"], r["plan"], r["format"]) == (data, plan, name)]
        exact = {
            r["seed"]: r["eval_loss"]
            for r in found
            if (r["data"], r["plan"], r["format"]) == (data, plan, "float32")
        }
        more = [r["eval_loss"] - exact[r["seed"]] for r in own]
        yield (
            f"| {data} | {plan} | {name} | {own[0]['bytes'] / 1e6:.1f} "
            f"| {mean(r['accuracy'] for r in own):.4f} | {mean(r['eval_loss'] for r in own):.4f} "
            f"| {interval(more)} | {len(own)} |"
        )


def interval(values: list[float]) -> str:
    """Return the mean and half the width of its 95 % interval (Student's t)."""
    if len(values) == 1:
        return f"{values[0]:+.4f}"
    width = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.4f} ± {width:.4f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("materials", type=Path)
    parser.add_argument("--out", type=Path, default=Path("low_bits.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        train_all(CHOOSING, EXAMPLE / "data", [*FORMATS, *map(aware, AWARE)], options)
        best = chosen(options.out)
        print(f"chosen on {CHOOSING}: {best}")
        train_all(REPORTING, options.materials / "sections", [*FORMATS, best], options)
    print(*table(options.out), sep="\n")
