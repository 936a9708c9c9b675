"""Which start of a bank is best, and whether sharing beats dropping layers of the same size.

    python examples/bbc-news/prepare.py
    python benchmarks/starts.py [starts|drop|forms|reuse] [--out FILE.jsonl] [--seeds 3]
                                [--only PATTERN]

Trains MiniLM on BBC News with every plan of the set and appends one JSON line a training to
the file; what is there already is not run again, and several shards may run at once. ``--table``
prints the mean accuracy over seeds with its range.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from sharetune.spaces import Candidate, Group, Recipe, SharingPlan
from sharetune.spaces.evaluator import Job, JobResources, Unheard
from sharetune.spaces.forms import Atoms, Bank, Basis, LowRank, Reuse, Tie
from sharetune.spaces.run_folder import RunFolder
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.models.softening import SCHEDULES
from sharetune.trainers.tasks.base import read_task

EXAMPLE = Path(__file__).parent.parent / "examples" / "bbc-news"
LEARNING_RATE, BATCH, TOKENS = 3e-4, 16, 48
Trained = tuple[str, SharingPlan, dict[str, str]]
"""A name, a plan and changes of the recipe."""


def starts() -> Iterator[Trained]:
    """Choice of units x init, for a bank and a tie."""
    yield "unshared", SharingPlan(), {}
    yield "drop 2, 3", SharingPlan.drop([2, 3]), {}
    yield "drop 1, 2, 3", SharingPlan.drop([1, 2, 3]), {}
    for ratio in (0.7, 1.0):
        for units in ("first", "best-match", "importance"):
            for init in ("first", "middle", "last", "mean"):
                if ratio < 1 or units != "best-match":
                    plan = SharingPlan.range(1, 4, ratio, units=units, init=init)
                    yield f"1..4 ratio {ratio:g} | {units} | {init}", plan, {}
    for init in ("mean", "middle"):
        plan = SharingPlan.range(0, 5, 0.6, units="importance", init=init)
        yield f"0..5 ratio 0.6 | importance | {init}", plan, {}
    for units in ("first", "importance"):
        pairs = Group(layers="0..5", assign={"sequence": 3}, units=units, init="mean")
        yield f"pairs tied | {units} | mean", SharingPlan(groups=(pairs,)), {}


def against_drop() -> Iterator[Trained]:
    """Plans that store as much as the unshared model without two, or three, of its layers."""
    yield "drop 2, 3", SharingPlan.drop([2, 3]), {}
    yield "drop 1, 2, 3", SharingPlan.drop([1, 2, 3]), {}
    for first, last, ratios in ((1, 4, (0.67, 1.0)), (1, 5, (0.5, 0.75)), (0, 5, (0.4, 0.6))):
        for ratio in ratios:
            plan = SharingPlan.range(first, last, ratio, units="importance", init="mean")
            yield f"{first}..{last} ratio {ratio:g}", plan, {}


def forms() -> Iterator[Trained]:
    """All six layers, by every form and schedule, each storing three layers' worth of matrices."""
    everywhere = {
        "bank 0.6 from mean": Group(layers="0..5", form=Bank(ratio=0.6), init="mean"),
        "bank 0.6 from first": Group(layers="0..5", form=Bank(ratio=0.6), init="first"),
        "lowrank 85 from mean": Group(layers="0..5", form=LowRank(rank=85), init="mean"),
        "basis 177": Group(layers="0..5", form=Basis(rank=177)),
        "atoms 3": Group(layers="0..5", form=Atoms(count=3)),
    }
    yield "drop 1, 2, 3", SharingPlan.drop([1, 2, 3]), {}
    for name, group in everywhere.items():
        yield name, SharingPlan(groups=(group,)), {}
    for schedule in SCHEDULES:
        plan = SharingPlan(groups=(everywhere["bank 0.6 from mean"],))
        yield f"bank 0.6 from mean, {schedule}", plan, {"soften": schedule}


def reuse() -> Iterator[Trained]:
    """Keys and values, or scores, of another layer, with heads matched and as they lie; and the
    middle layers run twice."""
    yield "unshared", SharingPlan(), {}
    for what in ("kv", "scores"):
        for assign in ("one", {"sequence": 3}):
            for units in ("first", "importance"):
                group = Group(layers="0..5", form=Reuse(what=what), assign=assign, units=units)
                yield f"{what} {assign} | {units}", SharingPlan(groups=(group,)), {}
    for form in (Tie(), LowRank(rank=8), LowRank(rank=0, diagonal=True, heads=True)):
        loop = Group(layers="2..3", times=2, assign="each", form=form)
        yield str(loop), SharingPlan(groups=(loop,)), {}


SETS = {"starts": starts, "drop": against_drop, "forms": forms, "reuse": reuse}


def train_all(
    plans: list[Trained], out: Path, seeds: int, steps: int, shard: int, shards: int
) -> None:
    """Runs what is missing in `out`, every `shards`-th plan from `shard` on."""
    task = {
        "name": "text-classification",
        "train": str(EXAMPLE / "data" / "train.csv"),
        "test": str(EXAMPLE / "data" / "test.csv"),
    }
    with tempfile.TemporaryDirectory() as scratch:
        cache, model = Path(scratch) / "cache", str(EXAMPLE / "model")
        evaluator = CandidateEvaluator.prepare(model, read_task(task), cache, TOKENS)
        jobs = [(seed, *item) for seed in range(seeds) for item in plans]
        for seed, name, plan, changes in jobs[shard::shards]:
            if (name, seed, steps) in {(r["name"], r["seed"], r["steps"]) for r in rows(out)}:
                continue
            recipe = Recipe(
                steps=steps,
                learning_rate=LEARNING_RATE,
                batch_size=BATCH,
                max_length=TOKENS,
                seed=seed,
                **changes,
            )
            candidate = Candidate(plan=plan, recipe=recipe).bound(evaluator.stacks)
            exact = evaluator.sizes(candidate)
            job = Job(0, candidate, RunFolder(Path(scratch)).trial(0))
            found = evaluator.evaluate(job, JobResources(), Unheard())
            row = {
                "name": name,
                "seed": seed,
                "steps": steps,
                "accuracy": found.scores.metrics["accuracy"],
                "parameters": exact["parameters"],
                "seconds": found.seconds["total"],
            }
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")


def rows(out: Path) -> list[dict]:
    """What is in the file."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def print_table(out: Path) -> None:
    """Mean accuracy and range over seeds, as Markdown."""
    print("| start | parameters | accuracy | lowest..highest | seeds |\n|---|---|---|---|---|")
    found = rows(out)
    for name in dict.fromkeys(row["name"] for row in found):
        own = [row for row in found if row["name"] == name]
        scores = [row["accuracy"] for row in own]
        print(
            f"| {name.replace('|', ',')} | {own[0]['parameters'] / 1e6:.2f}M | {mean(scores):.3f} "
            f"| {min(scores):.3f}..{max(scores):.3f} | {len(scores)} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plans", choices=SETS, nargs="?", default="starts")
    parser.add_argument("--out", type=Path, default=Path("starts.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--only", default="", help="a pattern that names must have")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        position, count = map(int, options.shard.split("/"))
        plans = [item for item in SETS[options.plans]() if re.search(options.only, item[0])]
        train_all(plans, options.out, options.seeds, options.steps, position, count)
    print_table(options.out)
