"""Measure the perplexity of SmolLM2 at 80 % of its stack, trained with and without a teacher.

    python examples/smollm2/prepare.py
    python benchmarks/distilling.py [--out FILE.jsonl] [--runs FOLDER] [--seeds 3] [--steps 60]
    python benchmarks/distilling.py --table [--out FILE.jsonl]

The plan is the one that was solved for 80 % of the stack (`benchmarks/matrix/rows/smollm2.csv`).
The teacher is the unshared model, fine-tuned once by the same recipe. Appends one JSON line a
training; what is there already is not run again, and an interrupted training goes on where it was.
"""

import argparse
import csv
import json
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.evaluator import Job, JobResources, Unheard
from sharetune.spaces.run_folder import RunFolder
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import read_task

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "smollm2"
ROWS = ROOT / "benchmarks" / "matrix" / "rows" / "smollm2.csv"
PART = "0.8"
SPLITS = ("train", "test")
TOKENS = 64
BASE: dict[str, Any] = {"learning_rate": 1e-4, "batch_size": 1, "max_length": TOKENS}
METRICS = ("perplexity", "bits_per_byte")
CHECKPOINT_S = 120.0

TEACHINGS: dict[str, dict[str, Any] | None] = {
    "labels alone": None,
    "labels and teacher, temperature 2": {},
}


def solved_plan() -> SharingPlan:
    """Return the plan that was solved for 80 % of the stack."""
    with ROWS.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["method"], r["part"]) == ("ShareTune", PART)]
    return SharingPlan.from_yaml(rows[0]["plan"])


def train(evaluator: CandidateEvaluator, candidate: Candidate, folder: Path) -> dict[str, Any]:
    """Train one candidate and return its row; its checkpoints and model lie in `folder`."""
    job = Job(0, candidate.bound(evaluator.stacks), RunFolder(folder).trial(0))
    found = evaluator.evaluate(job, JobResources(checkpoint_s=CHECKPOINT_S), Unheard())
    seconds = {"seconds": found.seconds["train"]}
    return {name: found.scores.metrics[name] for name in METRICS} | seconds


def fill(out: Path, runs: Path, seeds: int, steps: int) -> None:
    """Train what `out` has no line of, one seed after another, and append a line each."""
    task = {"name": "text-generation", **{s: str(EXAMPLE / f"data/{s}.csv") for s in SPLITS}}
    evaluator = CandidateEvaluator.prepare(
        str(EXAMPLE / "model"),
        read_task(task),
        runs / "cache",
        TOKENS,
        teacher_recipe=Recipe(**BASE, steps=steps),
    )
    done = {(row["teaching"], row["seed"], row["steps"]) for row in read(out)}
    for seed, name in product(range(seeds), TEACHINGS):
        if (name, seed, steps) in done:
            continue
        recipe = Recipe(**BASE, steps=steps, seed=seed, distill=TEACHINGS[name])
        folder = runs / f"{list(TEACHINGS).index(name)}-{seed}-{steps}"
        row = train(evaluator, Candidate(plan=solved_plan(), recipe=recipe), folder)
        row = {"teaching": name, "seed": seed, "steps": steps} | row
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def read(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, none if it is not there."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(rows: list[dict[str, Any]]) -> None:
    """Print means over seeds, their spread, and what is won seed by seed."""
    by_name = {
        name: {row["seed"]: row for row in rows if row["teaching"] == name} for name in TEACHINGS
    }
    plain = by_name["labels alone"]
    print("| taught by | perplexity | won | bits per byte |")
    print("|---|---|---|---|")
    for name, found in by_name.items():
        ppl, bits = ([row[key] for row in found.values()] for key in METRICS)
        gains = [plain[seed]["perplexity"] - row["perplexity"] for seed, row in found.items()]
        won = "" if name == "labels alone" else spread(gains, ".2f")
        print(f"| {name} | {spread(ppl, '.2f')} | {won} | {spread(bits, '.3f')} |")


def spread(values: list[float], form: str) -> str:
    """Write a mean and a standard deviation."""
    return f"{mean(values):{form}} ± {stdev(values):{form}}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("distilling.jsonl"))
    parser.add_argument("--runs", type=Path, default=Path("runs/distilling"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        fill(given.out, given.runs, given.seeds, given.steps)
    table(read(given.out))
