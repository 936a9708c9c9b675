"""Makes random settings, and counts those that are neither refused nor read back as they were.

    python benchmarks/round_trips.py [--count 100000] [--seed 0]

Plans, candidates, recipes, compressions, spaces and studies are made from good ones by putting
values of any kind in any place (`attack.py`), and from parts that fit. Each must be refused with
one of our errors, or be written, as YAML and as JSON, so that it reads back as an equal one; a plan
also after it was bound to a model.
"""

import argparse
import json
import random
import sys
import time
import traceback
from collections import Counter
from typing import Any

from attack import PLAN, STUDY, mutated
from pydantic import BaseModel

from sharetune.search.config import StudyConfig
from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.space import Space
from sharetune.spaces.stack_shape import StackShape
from sharetune.spaces.yaml_text import read_yaml, write_yaml

STACKS = {"layers": StackShape(depth=6, heads=4, neurons=64)}
LAYERS: list[Any] = [
    *("0..1", "2..4", "all", "-2..-1", "0..-1", "1..-2", [0, 2, 4], [-1, 0], [5], 3, -2, [1, 2, 3]),
    *("3..3", [0, -1], "-6..-1"),
]
FORMS: list[Any] = [
    *("tie", "drop", "merge", {"bank": {"ratio": 0.5}}, {"bank": {"ratio": 0}}, {"narrow": {}}),
    *({"narrow": {"keep": 0.5}}, {"lowrank": {"rank": 2}}, {"bank": {"ratio": 1}}, {"basis": {}}),
]
ASSIGNS: list[Any] = [
    "one",
    "each",
    {"cycle": 2},
    {"sequence": 2},
    {"owners": [0, 1]},
    {"repeat": 2},
]


def group(rng: random.Random) -> dict[str, Any]:
    """A group of keys that fit, one by one."""
    chosen: dict[str, Any] = {"layers": rng.choice(LAYERS)}
    for key, values in {
        "form": FORMS,
        "assign": ASSIGNS,
        "parts": [["attention"], ["ffn"], "ffn", ["attention", "ffn", "norms"], ["q", "k"]],
        "init": ["mean", "first", "stepwise", 0, 3],
        "units": ["first", "best-match", "importance"],
        "times": [1, 2, 3],
        "order": ["block", "layer"],
        "stack": [None, "layers"],
    }.items():
        if rng.random() < 0.35:
            chosen[key] = rng.choice(values)
    return chosen


def plan(rng: random.Random) -> dict[str, Any]:
    """A plan of up to three groups."""
    return {"groups": [group(rng) for _ in range(rng.choice([0, 1, 1, 2, 2, 3]))]}


def made(rng: random.Random) -> tuple[type[BaseModel], Any]:
    """A kind of settings, and plain data for it."""
    kind = rng.random()
    if kind < 0.45:
        return SharingPlan, plan(rng)
    if kind < 0.55:
        return SharingPlan, mutated(PLAN, rng)
    recipe = STUDY["space"]["recipe"] | {"learning_rate": 10 ** rng.uniform(-6, -2)}
    recipe |= {"distill": rng.choice([None, {"temperature": 3.0}]), "adversary": "fgm"}
    if kind < 0.7:
        data: dict[str, Any] = {"plan": plan(rng), "recipe": recipe, "compression": {"heads": 0.25}}
        return Candidate, mutated(data, rng) if rng.random() < 0.5 else data
    if kind < 0.8:
        return Recipe, mutated(recipe, rng)
    if kind < 0.85:
        return Compression, mutated({"heads": 0.2, "magnitude": 0.5, "quantize": "int8"}, rng)
    if kind < 0.93:
        return Space, mutated(STUDY["space"], rng)
    return StudyConfig, mutated(STUDY, rng)


def outcome(model: type[BaseModel], data: Any) -> str:
    """Refused, equal, or what is wrong."""
    try:
        read = model.model_validate(data)
    except SharetuneError:
        return "refused"
    written = read.model_dump(mode="json")
    text = write_yaml(written)
    if model.model_validate(read_yaml(text)) != read:
        return "other from YAML"
    if model.model_validate(json.loads(json.dumps(written))) != read:
        return "other from JSON"
    return bound_outcome(read) if isinstance(read, SharingPlan) else "equal"


def bound_outcome(read: SharingPlan) -> str:
    """The same for a plan that is written as users do, and bound to a model."""
    if SharingPlan.from_yaml(read.to_yaml()) != read:
        return "other as users write it"
    try:
        bound = read.bound(STACKS)
    except SharetuneError:
        return "equal"  # it does not fit this model
    if SharingPlan.from_yaml(bound.to_yaml()) != bound:
        return "other when bound"
    return "equal" if bound.bound(STACKS) == bound else "other when bound twice"


def count_outcomes(count: int, seed: int) -> tuple[Counter, list[str]]:
    """Makes `count` settings; returns what they came to, and the first that are wrong."""
    rng, counts, wrong = random.Random(seed), Counter(), []
    for _ in range(count):
        model, data = made(rng)
        try:
            found = outcome(model, data)
        except Exception:
            found = "traceback"
            data = f"{data}\n{traceback.format_exc()[-800:]}"
        counts[found] += 1
        if found not in ("refused", "equal") and len(wrong) < 5:
            wrong.append(f"{model.__name__} {found}: {str(data)[:1500]}")
    return counts, wrong


def main(count: int, seed: int) -> int:
    """Prints the counts; the exit code says whether any was wrong."""
    begin = time.monotonic()
    counts, wrong = count_outcomes(count, seed)
    print("\n".join(wrong))
    print(f"{count:,} settings in {time.monotonic() - begin:.0f} s: {dict(counts)}")
    return int(set(counts) > {"refused", "equal"} or bool(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(main(**vars(parser.parse_args())))
