"""Trains every candidate of a small space for real, and keeps what each rung showed.

    python benchmarks/search/table.py [digits|news] [--shard 0/1] [--limit N]  # resumable
    python benchmarks/search/table.py [digits|news] --pack     # table.csv.gz, news.csv.gz from it

The models are six layers of width 32, pretrained here on one half of the training rows (see
`materials`); the candidates share its layers by one group each, get a new head and are trained on
the other half for 32 steps of 32 rows. Every tenth candidate is trained with three seeds. One line
a training: the candidate, its exact sizes, accuracy on the test rows after 4, 8, 16 and 32 steps,
and the processor's seconds until each, on one thread: those of the clock depend on what else the
machine does.
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
from materials import MATERIALS, Material, collate
from torch import Tensor
from transformers import PreTrainedModel, logging, set_seed

from sharetune.spaces.recipe import Candidate, Recipe
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers.measuring import sizes
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.sharing import share_
from sharetune.trainers.models.structure import stack_shapes
from sharetune.trainers.tasks.prediction import predict
from sharetune.trainers.training.rungs import Rungs
from sharetune.trainers.training.trainer import TrainingInputs, train

HERE = Path(__file__).parent
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


def pretrained(material: Material, folder: Path) -> PreTrainedModel:
    """The model after its pretraining, with a new head; always the same."""
    set_seed(0)
    model = material.model()
    if folder.exists():
        return type(model).from_pretrained(folder)
    recipe = Recipe(steps=material.steps, learning_rate=material.learning_rate, batch_size=64)
    train(model, recipe, data=material.pretraining, collate=collate, total_steps=material.steps)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.classifier.weight, std=0.02)
    torch.nn.init.zeros_(model.classifier.bias)
    model.save_pretrained(folder)
    return model


class Bench:
    """The pretrained model and its data, loaded once."""

    def __init__(self, name: str) -> None:
        material = MATERIALS[name]()
        self.model = pretrained(material, HERE / f"pretrained-{name}")
        self.train_rows, self.test_rows = material.training, material.testing
        batches = [inputs(self.train_rows[i : i + 32]) for i in range(0, 128, 32)]
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
        inputs = TrainingInputs(self.train_rows, collate, STEPS, callbacks=[rungs])
        train(model, recipe, inputs)
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
            sample = {k: v.to("meta") for k, v in inputs(self.test_rows[:1]).items()}
            self.exact[name] = sizes.facts(self.skeleton, shared, sample)
        return self.exact[name]

    def measure(self, model: torch.nn.Module) -> dict[str, float]:
        """Accuracy on the test rows."""
        logits = predict(model, data=self.test_rows, collate=collate, batch_size=256)
        truth = torch.tensor([row["labels"] for row in self.test_rows])
        return {"accuracy": round(float((logits.argmax(-1) == truth).float().mean()), 5)}


def inputs(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch without its labels."""
    return {name: values for name, values in collate(rows).items() if name != "labels"}


def jobs(stacks: dict[str, StackShape]) -> Iterator[tuple[Candidate, int]]:
    """What is to be trained: all with seed 0, then every tenth with two more."""
    every = candidates(stacks)
    yield from ((candidate, 0) for candidate in every)
    for seed in range(1, SEEDS):
        yield from ((candidate, seed) for candidate in every[::EVERY])


def lines_of(name: str) -> Path:
    """Where a table's trainings are kept while it is made."""
    return HERE / f"{name}.jsonl"


def rows(name: str) -> list[dict[str, Any]]:
    """What is there."""
    lines = lines_of(name)
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


def pack(name: str) -> None:
    """Writes the table as it is kept: one column a rung, sorted."""
    packed = PACKED if name == "digits" else HERE / f"{name}.csv.gz"
    frame = pd.DataFrame(rows(name)).drop_duplicates(["key", "seed"])
    frame["plan"] = [json.dumps(json.loads(key)["plan"]) for key in frame["key"]]
    for name in ("accuracy", "seconds"):
        for rung in range(len(RUNGS) + 1):
            frame[f"{name}_{rung}"] = [values[rung] for values in frame[name]]
    frame = frame.drop(columns=["key", "accuracy", "seconds"])
    frame = frame.sort_values(["plan", "learning_rate", "seed"])
    frame.to_csv(packed, index=False, compression={"method": "gzip", "mtime": 0})
    candidates = frame.groupby(["plan", "learning_rate"]).ngroups
    print(f"wrote {len(frame)} trainings of {candidates} candidates to {packed}")


def main(name: str, shard: int, shards: int, limit: int | None) -> None:
    """Trains what is missing."""
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    bench = Bench(name)
    done = {(row["key"], row["seed"]) for row in rows(name)}
    own = list(jobs(bench.stacks))[shard::shards]
    missing = [(c, seed) for c, seed in own if (c.key(), seed) not in done][:limit]
    print(f"{len(done)} done, {len(missing)} to train", flush=True)
    with lines_of(name).open("a") as file:
        for candidate, seed in missing:
            file.write(json.dumps(bench.row(candidate, seed)) + "\n")
            file.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("material", nargs="?", choices=MATERIALS, default="digits")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--pack", action="store_true")
    options = parser.parse_args()
    if options.pack:
        pack(options.material)
    else:
        main(options.material, *map(int, options.shard.split("/")), options.limit)
