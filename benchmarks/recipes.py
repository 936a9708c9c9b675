"""What each part of the recipe wins back of what one fixed sharing plan costs.

    python examples/bbc-news/prepare.py
    python benchmarks/recipes.py [--out FILE.jsonl] [--seeds 3] [--first-seed 0] [--steps 40]
                                 [--only NAME ...]
    python benchmarks/recipes.py --table [--out FILE.jsonl ...] [--parts FILE]

MiniLM on BBC News, all six layers reading 80 % of their units from one bank: two layers' worth of
matrices are stored, 67 % are gone. Each part alone, and their combinations. Appends one JSON line
a training; what is there already is not run again. `--parts` takes what `benchmarks/parts.py`
printed on a quiet machine, for what a step takes; a teacher's own training is not in it.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.evaluator import Job, JobResources, Unheard
from sharetune.spaces.run_folder import RunFolder
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import read_task

EXAMPLE = Path(__file__).parent.parent / "examples" / "bbc-news"
PLAN = SharingPlan.range(0, 5, 0.8)
BASE = {"learning_rate": 3e-4, "batch_size": 16, "max_length": 48}
TIMED = re.compile(r"(.+?) +[\d.]+ ms +x ([\d.]+)")
"""A line of `benchmarks/parts.py`."""

PARTS: dict[str, dict[str, Any]] = {
    "bank_l2 1e-6": {"bank_l2": 1e-6},
    "bank_l2_start 1e-3": {"bank_l2_start": 1e-3},
    "bank_lr_rule sqrt": {"bank_lr_rule": "sqrt"},
    "bank_lr_rule readers": {"bank_lr_rule": "readers"},
    "layer_lr_decay 0.9": {"layer_lr_decay": 0.9},
    "head_lr_scale 3": {"head_lr_scale": 3.0},
    "kept_top 1": {"kept_top": 1},
    "dropout 0": {"dropout": 0.0},
    "label_smoothing 0.1": {"label_smoothing": 0.1},
    "patience 5": {"patience": 5},
    "soften interpolate": {"soften": "interpolate"},
    "soften pull": {"soften": "pull", "pull": 1.0},
    "distill logits": {"distill": {}},
    "distill logits, half without labels": {"distill": {"without_labels": 0.5}},
    "distill hidden": {"distill": {"logits": 1.0, "hidden": 1.0}},
    "distill relations": {"distill": {"logits": 1.0, "relations": 1.0}},
    "fgm": {"adversary": "fgm"},
    "pgd": {"adversary": "pgd"},
    "freelb": {"adversary": "freelb"},
    "fgm 1": {"adversary": {"fgm": {"epsilon": 1.0}}},
    "fgm 0.3": {"adversary": {"fgm": {"epsilon": 0.3}}},
    "pgd 0.3": {"adversary": {"pgd": {"epsilon": 0.3, "alpha": 0.1}}},
    "freelb 0.3": {"adversary": {"freelb": {"epsilon": 0.3, "alpha": 0.1, "start": 0.1}}},
    "r_drop 1": {"r_drop": 1.0},
    "augment deletion, swap": {"augment": {"deletion": 0.1, "swap": 0.1}},
    "augment synonyms": {"augment": {"synonyms": 0.1}},
}


def together(*names: str) -> dict[str, Any]:
    """Several of the parts at once."""
    return {key: value for name in names for key, value in PARTS[name].items()}


COMBINATIONS = (
    ("distill hidden", "soften interpolate"),
    ("distill hidden", "bank_lr_rule sqrt"),
    ("distill hidden", "fgm"),
    ("dropout 0", "bank_lr_rule readers"),
    ("dropout 0", "kept_top 1"),
    ("dropout 0", "bank_lr_rule readers", "kept_top 1"),
    ("dropout 0", "distill hidden", "soften interpolate"),
    ("dropout 0", "kept_top 1", "distill hidden", "soften interpolate"),
)
COMBINED = {" + ".join(names): together(*names) for names in COMBINATIONS}
COMPRESSED: dict[str, dict[str, Any]] = {
    "neurons 0.25, recover 0.3": {"neurons": 0.25, "recover": 0.3},
    "heads 0.25, recover 0.3": {"heads": 0.25, "recover": 0.3},
    "magnitude 0.3, recover 0.3": {"magnitude": 0.3, "recover": 0.3},
    "int8": {"quantize": "int8"},
    "dynamic-int8": {"quantize": "dynamic-int8"},
}


def jobs() -> list[tuple[str, SharingPlan, dict[str, Any], dict[str, Any]]]:
    """Name, plan, and changes of recipe and compression."""
    return [
        ("unshared", SharingPlan(), {}, {}),
        ("nothing", PLAN, {}, {}),
        *((name, PLAN, recipe, {}) for name, recipe in (PARTS | COMBINED).items()),
        *((name, PLAN, {}, compression) for name, compression in COMPRESSED.items()),
    ]


def train_all(out: Path, seeds: Iterable[int], steps: int, only: Collection[str]) -> None:
    """Runs what is missing in `out`, of the jobs named, or of all."""
    task = {"name": "text-classification", **{s: str(EXAMPLE / f"data/{s}.csv") for s in SPLITS}}
    with tempfile.TemporaryDirectory() as scratch:
        evaluator = CandidateEvaluator.prepare(
            str(EXAMPLE / "model"),
            read_task(task),
            Path(scratch) / "cache",
            int(BASE["max_length"]),
            teacher_recipe=Recipe(**BASE, steps=steps),
        )
        wanted = [job for job in jobs() if not only or job[0] in only]
        todo = [(seed, *job) for seed in seeds for job in wanted]
        for seed, name, plan, recipe, compression in todo:
            if (name, seed, steps) in {(r["name"], r["seed"], r["steps"]) for r in rows(out)}:
                continue
            full = Recipe.model_validate({**BASE, "steps": steps, "seed": seed, **recipe})
            given = Candidate(plan=plan, compression=compression, recipe=full)
            candidate = given.bound(evaluator.stacks)
            exact = evaluator.sizes(candidate)
            job = Job(0, candidate, RunFolder(Path(scratch)).trial(0))
            found = evaluator.evaluate(job, JobResources(), Unheard())
            row = {"name": name, "seed": seed, "steps": steps, "bytes": exact["bytes"]}
            row |= {key: found.scores.metrics[key] for key in ("accuracy", "calibration_error")}
            row |= {"parameters": exact["parameters"], "train_s": found.seconds["train"]}
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")


SPLITS = ("train", "test")


def rows(out: Path) -> list[dict]:
    """What is in the file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def print_table(outs: Iterable[Path], parts: Path | None) -> None:
    """Mean accuracy over seeds, and its gain on no part with the same seed, both with a 95 %
    interval (Student's t), and what a step takes against no part's where `parts` has it, as
    Markdown, the best first."""
    print("| part | accuracy | gain | calibration error | MB | a step | seeds |")
    print("|---|---|---|---|---|---|---|")
    lines = [] if parts is None else parts.read_text("utf-8").splitlines()
    timed = {m[1]: float(m[2]) for m in map(TIMED.match, lines) if m} | {"nothing": 1.0}
    found = [row for out in outs for row in rows(out)]
    plain = {row["seed"]: row["accuracy"] for row in found if row["name"] == "nothing"}
    names = dict.fromkeys(row["name"] for row in found)
    scores = {n: [row["accuracy"] for row in found if row["name"] == n] for n in names}
    for name in sorted(names, key=lambda n: -mean(scores[n])):
        own = [row for row in found if row["name"] == name]
        gains = [row["accuracy"] - plain[row["seed"]] for row in own if row["seed"] in plain]
        step = f"x {timed[name]:.2f}" if name in timed else ""
        error = mean(row["calibration_error"] for row in own)
        print(
            f"| {name} | {interval(scores[name])} | {interval(gains, '+')} | {error:.3f} "
            f"| {own[0]['bytes'] / 1e6:.1f} | {step} | {len(own)} |"
        )


def interval(values: Sequence[float], sign: str = "") -> str:
    """The mean and half the width of its interval; of a single value only that."""
    if not values:
        return ""
    many, middle = len(values), f"{mean(values):{sign}.3f}"
    if many == 1:
        return middle
    return f"{middle} ± {student.ppf(0.975, many - 1) * stdev(values) / many**0.5:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, nargs="+", default=[Path("recipes.jsonl")])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--parts", type=Path)
    options = parser.parse_args()
    unknown = set(options.only) - {job[0] for job in jobs()}
    if unknown:
        parser.error(f"no part is called {min(unknown)!r}")
    if not options.table:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        train_all(options.out[0], seeds, options.steps, options.only)
    print_table(options.out, options.parts)
