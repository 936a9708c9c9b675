"""Trains every candidate of a small space for real, and keeps what each rung showed.

    python benchmarks/search/table.py [--shard 0/1] [--limit N]     # table.jsonl, resumable
    python benchmarks/search/table.py --pack                        # table.csv.gz from it

The model is a 6-layer ViT of width 32 over scikit-learn's handwritten digits (1,797 images of
8 x 8 in 17 tokens), pretrained here on one half of the training images; the candidates share
its layers by one group each, get a new head and are trained on the other half for 32 steps of
32 images. Every tenth candidate is trained with three seeds. One line a training: the candidate,
its exact sizes, accuracy on 719 test images after 4, 8, 16 and 32 steps, and the processor's
seconds until each, on one thread: those of the clock depend on what else the machine does.
"""

import argparse
import copy
import gc
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lookup import FORMS, LEARNING_RATES, PACKED, PARTS, RUNGS, SPACE, STEPS, Fixed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, logging, set_seed

from spaces.plan import StackShape
from spaces.recipe import Candidate, Recipe
from trainers import sizes
from trainers.calibration import record_activations
from trainers.rungs import Rungs
from trainers.sharing import share_
from trainers.structure import stack_shapes
from trainers.training import predict, train

HERE = Path(__file__).parent
LINES, MODEL = HERE / "table.jsonl", HERE / "pretrained"
SEEDS, EVERY = 3, 10


def candidates(stacks: dict[str, StackShape]) -> list[Candidate]:
    """All distinct candidates of the space that leave a layer, in a fixed order."""
    found: dict[str, Candidate] = {}
    axes = {
        "count": range(2),
        "start": [(i + 0.5) / 5 for i in range(5)],
        "length": [i / 20 for i in range(20)],
        "parts": range(len(PARTS)),
        "form": range(len(FORMS)),
        "learning_rate": range(len(LEARNING_RATES)),
    }
    for values in itertools.product(*axes.values()):
        drawn = SPACE.suggest(Fixed(dict(zip(axes, values, strict=True))), stacks)
        removed = [g for g in drawn.plan.groups if g.form.removes_layers]
        if all(len(group.layers) < stacks["layers"].depth for group in removed):
            found.setdefault(drawn.key(), drawn)
    return list(found.values())


def images() -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows for pretraining, training and testing: 539, 539 and 719 of the digits."""
    digits = load_digits()
    pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    rows = [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(pixels, digits.target, strict=True)
    ]
    rest, test = train_test_split(rows, test_size=0.4, random_state=0, stratify=digits.target)
    return rest[::2], rest[1::2], test


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch: ``pixel_values (n, 1, 8, 8)`` and ``labels (n,)``."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def pretrained() -> ViTForImageClassification:
    """The ViT after 1,200 steps on the first half, with a new head; always the same."""
    if MODEL.exists():
        return ViTForImageClassification.from_pretrained(MODEL)
    set_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=8,
            patch_size=2,
            num_channels=1,
            num_labels=10,
        )
    )
    recipe = Recipe(steps=1200, learning_rate=2e-3, batch_size=64)
    train(model, recipe, data=images()[0], collate=collate, total_steps=1200)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.classifier.weight, std=0.02)
    torch.nn.init.zeros_(model.classifier.bias)
    model.save_pretrained(MODEL)
    return model


class Bench:
    """The pretrained model and its data, loaded once."""

    def __init__(self) -> None:
        self.model = pretrained()
        _, self.train_rows, self.test_rows = images()
        batches = [
            {"pixel_values": collate(self.train_rows[i : i + 32])["pixel_values"]}
            for i in range(0, 128, 32)
        ]
        self.activations = record_activations(self.model, batches)
        self.skeleton = copy.deepcopy(self.model).to("meta")
        self.stacks = stack_shapes(self.model)
        self.exact: dict[str, dict[str, float]] = {}
        gc.collect()
        gc.freeze()  # the Trainer collects garbage at its end, a third of a second without this

    def row(self, candidate: Candidate, seed: int) -> dict[str, Any]:
        """One real training."""
        exact = self.sizes(candidate)
        start = time.process_time()
        set_seed(seed)
        model = share_(copy.deepcopy(self.model), candidate.plan, self.activations)
        accuracies, seconds = [], []

        def report(_: int, metrics: dict[str, float]) -> bool:
            accuracies.append(metrics["accuracy"])
            seconds.append(round(time.process_time() - start, 4))
            return True

        recipe = candidate.recipe.model_copy(update={"seed": seed})
        rungs = Rungs(RUNGS, self.measure, report)
        train(
            model,
            recipe,
            data=self.train_rows,
            collate=collate,
            total_steps=STEPS,
            rungs=rungs,
        )
        report(len(RUNGS), self.measure(model))
        return {
            "key": candidate.key(),
            "plan": str(candidate.plan),
            "learning_rate": recipe.learning_rate,
            "seed": seed,
            "parameters": exact["parameters"],
            "flops": exact["flops"],
            "accuracy": accuracies,
            "seconds": seconds,
        }

    def sizes(self, candidate: Candidate) -> dict[str, float]:
        """Parameters and FLOPs, counted once for each plan."""
        name = str(candidate.plan)
        if name not in self.exact:
            shared = share_(copy.deepcopy(self.skeleton), candidate.plan)
            sample = {"pixel_values": torch.zeros(1, 1, 8, 8, device="meta")}
            self.exact[name] = sizes.facts(self.skeleton, shared, sample)
        return self.exact[name]

    def measure(self, model: torch.nn.Module) -> dict[str, float]:
        """Accuracy on the test images."""
        logits = predict(model, data=self.test_rows, collate=collate, batch_size=256)
        truth = torch.tensor([row["labels"] for row in self.test_rows])
        return {"accuracy": round(float((logits.argmax(-1) == truth).float().mean()), 5)}


def jobs(stacks: dict[str, StackShape]) -> Iterator[tuple[Candidate, int]]:
    """What is to be trained: all with seed 0, then every tenth with two more."""
    every = candidates(stacks)
    yield from ((candidate, 0) for candidate in every)
    for seed in range(1, SEEDS):
        yield from ((candidate, seed) for candidate in every[::EVERY])


def rows() -> list[dict[str, Any]]:
    """What is in ``table.jsonl``."""
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def pack() -> None:
    """Writes the table as it is kept: one column a rung, sorted."""
    frame = pd.DataFrame(rows()).drop_duplicates(["key", "seed"])
    frame["plan"] = [json.dumps(json.loads(key)["plan"]) for key in frame["key"]]
    for name in ("accuracy", "seconds"):
        for rung in range(len(RUNGS) + 1):
            frame[f"{name}_{rung}"] = [values[rung] for values in frame[name]]
    frame = frame.drop(columns=["key", "accuracy", "seconds"])
    frame = frame.sort_values(["plan", "learning_rate", "seed"])
    frame.to_csv(PACKED, index=False, compression={"method": "gzip", "mtime": 0})
    candidates = frame.groupby(["plan", "learning_rate"]).ngroups
    print(f"wrote {len(frame)} trainings of {candidates} candidates to {PACKED}")


def main(shard: int, shards: int, limit: int | None) -> None:
    """Trains what is missing."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    bench = Bench()
    done = {(row["key"], row["seed"]) for row in rows()}
    own = list(jobs(bench.stacks))[shard::shards]
    missing = [(c, seed) for c, seed in own if (c.key(), seed) not in done][:limit]
    print(f"{len(done)} done, {len(missing)} to train", flush=True)
    with LINES.open("a") as file:
        for candidate, seed in missing:
            file.write(json.dumps(bench.row(candidate, seed)) + "\n")
            file.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--pack", action="store_true")
    options = parser.parse_args()
    if options.pack:
        pack()
    else:
        main(*map(int, options.shard.split("/")), options.limit)
