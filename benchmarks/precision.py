"""Compare losses, memory and gradients of SmolLM2 by precision, recomputed layers, micro-batches.

    python examples/smollm2/prepare.py
    python benchmarks/precision.py [curves copy memory parts] [--out FILE.jsonl] [--steps 20]

`curves` trains in float32 and in bfloat16, on three seeds. `copy` trains a bfloat16 checkpoint and
its copy in float32. `memory` measures the activations held between forward and backward pass, and
the peak of both, with and without recomputing, by PyTorch's own account of its allocations.
`parts` compares gradients of a batch of texts of unlike lengths with those of its parts, of halves
in float64 as well, where only what is no rounding is left. Appends a JSON line each; what is there
already is not run again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
import torch
from distilling import BASE, EXAMPLE, TOKENS, read, solved_plan, spread
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    TrainerCallback,
    set_seed,
)

from sharetune.spaces import Recipe
from sharetune.trainers.models.dtypes import TRAINED, cast_
from sharetune.trainers.models.sharing import share_
from sharetune.trainers.models.structure import stack_shapes
from sharetune.trainers.tasks.prediction import losses
from sharetune.trainers.training.arguments import trained_in_place
from sharetune.trainers.training.trainer import TrainingInputs, train

BLOCKS = 400
"""Blocks of training text that are read."""

JUDGED = 16
"""Blocks of test text that perplexity is measured on."""

LENGTHS = (64, 9, 33, 17, 50, 12, 41, 25)
"""Tokens of the texts of a batch that is trained in parts."""

MOST = 10**6
"""A batch of this many examples is never in parts."""

Row = dict[str, Any]


def texts(split: str, lengths: list[int]) -> list[dict[str, list[int]]]:
    """Return texts of these lengths, one after another from the split's beginning."""
    reader = AutoTokenizer.from_pretrained(EXAMPLE / "model")
    words = pd.read_csv(EXAMPLE / f"data/{split}.csv")["text"]
    ids = reader("\n\n".join(words[: sum(lengths) // 100 + 20]))["input_ids"]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [{"input_ids": ids[i : i + n]} for i, n in zip(starts, lengths, strict=True)]


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Return a batch; padding is no label."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids, mask = torch.zeros((2, len(rows), longest), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask[place, : len(row["input_ids"])] = 1
    labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def shared(folder: Path = EXAMPLE / "model", dtype: torch.dtype = TRAINED) -> PreTrainedModel:
    """Return SmolLM2 with the plan that was solved for 80 % of its stack."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return share_(model, solved_plan().bound(stack_shapes(model)))


def curve(model: PreTrainedModel, steps: int, **recipe: Any) -> list[float]:
    """Train the model on blocks of text; return its loss at each step."""
    wanted = Recipe(**BASE, steps=steps, **recipe)
    set_seed(wanted.seed)
    inputs = TrainingInputs(texts("train", [TOKENS] * BLOCKS), padded, steps)
    return [loss for _, loss in train(model, wanted, inputs)]


def curves(steps: int) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yield trainings of three seeds in two precisions."""
    for seed in range(3):
        for precision in ("float32", "bfloat16"):

            def trained(seed: int = seed, precision: str = precision) -> Row:
                model = shared()
                points = curve(model, steps, seed=seed, precision=precision)
                judged = texts("test", [TOKENS] * JUDGED)
                after = losses(model, data=judged, collate=padded, batch_size=4).mean
                return {"precision": precision, "seed": seed, "losses": points, "test": after}

            yield f"curves {precision} {seed} {steps}", trained


def copy(steps: int) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yield the training of a bfloat16 checkpoint and of its float32 copy."""

    def trained() -> Row:
        with tempfile.TemporaryDirectory() as scratch:
            half, whole = Path(scratch) / "bfloat16", Path(scratch) / "float32"
            model = AutoModelForCausalLM.from_pretrained(EXAMPLE / "model", dtype=torch.bfloat16)
            model.save_pretrained(half)
            cast_(model, TRAINED).save_pretrained(whole)
            return {"bfloat16": curve(shared(half), 5), "float32": curve(shared(whole), 5)}

    yield "copy", trained


def memory(_: int) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yield the memory and the gradients of one batch, with and without recomputing."""

    def measured() -> Row:
        batch = padded(texts("train", [TOKENS] * 8))
        held, peaks, found = {}, {}, []
        for recomputes in (False, True):
            model = shared().train()
            with trained_in_place(model, Recipe(gradient_checkpointing=recomputes)):
                word = "recomputed" if recomputes else "kept"
                held[word], peaks[word] = allocated(model, batch)
            found.append(gradients_of(model))
        return {"held": held, "peak": peaks, **apart(*found)}

    yield "memory", measured


def allocated(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[int, int]:
    """Return the bytes held after the forward pass, and the most during both passes.

    The loss and logits of the head are part of both.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as forward:
        loss = model(**batch).loss
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as backward:
        loss.backward()
    held, most = sums(forward)
    _, later = sums(backward)
    return held, max(most, held + later)


def sums(profiled: profile) -> tuple[int, int]:
    """Return the bytes allocated and not freed in a profile, and the most at any time."""
    assert profiled.profiler is not None
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    total = most = 0
    for _, change in changes:
        total += change
        most = max(most, total)
    return total, most


class Kept(TrainerCallback):
    """Keeps the gradients that the optimiser is about to use."""

    def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
        self.found = gradients_of(model)


def gradients_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return copies of a model's gradients by parameter."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> Row:
    """Return the largest gradient, and the largest difference of two sets of them."""
    assert one.keys() == other.keys()
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    return {
        "largest": largest,
        "apart": max(float((one[name] - other[name]).abs().max()) for name in one),
    }


def parts(_: int) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yield gradients of a batch in parts against those of the whole, and by means of means."""

    def compared() -> Row:
        found = {size: stepped(size) for size in (8, 4, 1)}
        rows = texts("train", [*LENGTHS])
        model = shared().train()
        for half in (rows[:4], rows[4:]):
            (model(**padded(half)).loss / 2).backward()
        means = apart(found[8], gradients_of(model))
        return {"half": apart(found[8], found[4]), "one": apart(found[8], found[1]), "means": means}

    def exact() -> Row:
        whole, halves = (stepped(size, torch.float64) for size in (8, 4))
        return {"half": apart(whole, halves)}

    yield "parts", compared
    yield "parts, float64", exact


def stepped(size: int, dtype: torch.dtype = TRAINED) -> dict[str, Tensor]:
    """Return the gradients of the batch, in parts of `size` examples."""
    model, kept = shared(dtype=dtype), Kept()
    settings = BASE | {"batch_size": len(LENGTHS), "max_grad_norm": 0.0, "dropout": 0.0}
    recipe = Recipe(**settings, steps=1, micro_batch=size)
    rows = texts("train", [*LENGTHS])
    train(model, recipe, TrainingInputs(rows, padded, 1, callbacks=[kept]))
    return kept.found


MEASURED = {"curves": curves, "copy": copy, "memory": memory, "parts": parts}


def summary(rows: list[Row]) -> None:
    """Print what has been measured."""
    trained = [row for row in rows if row["what"].startswith("curves")]
    by = {
        name: {row["seed"]: row for row in trained if row["precision"] == name}
        for name in ("float32", "bfloat16")
    }
    both = sorted(by["float32"].keys() & by["bfloat16"].keys())
    for name, found in by.items():
        if len(both) > 1:
            losses = [found[seed]["test"] for seed in both]
            last = [mean(found[seed]["losses"][-5:]) for seed in both]
            print(f"{name}: test loss {spread(losses, '.4f')}, last five {spread(last, '.4f')}")
    if len(both) > 1:
        differ = [by["bfloat16"][seed]["test"] - by["float32"][seed]["test"] for seed in both]
        pairs = [(by["float32"][s]["losses"], by["bfloat16"][s]["losses"]) for s in both]
        steps = [abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)]
        print(f"test loss, bfloat16 - float32: {mean(differ):+.4f} ± {stdev(differ):.4f}")
        print(f"losses of a step differ by {mean(steps):.4f}, by {max(steps):.4f} at most")
    for row in rows:
        if row["what"] == "copy":
            gaps = [abs(a - b) for a, b in zip(row["bfloat16"], row["float32"], strict=True)]
            print(f"bfloat16 checkpoint and float32 copy: {len(gaps)} losses, {max(gaps)} apart")
        elif not row["what"].startswith("curves"):
            print(json.dumps(row))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=list(MEASURED))
    parser.add_argument("--out", type=Path, default=Path("precision.jsonl"))
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    for what in given.what:
        if what not in MEASURED:
            sys.exit(f"no measurement {what!r}; there are {', '.join(MEASURED)}")
        for name, measure in MEASURED[what](given.steps):
            if name in {row["what"] for row in read(given.out)}:
                continue
            row = {"what": name} | measure()
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(name, flush=True)
    summary(read(given.out))
