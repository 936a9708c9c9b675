"""What a shared model costs at run time: a training step and a forward pass, in turns.

    python examples/bbc-news/prepare.py
    python benchmarks/steps.py [--rounds 30]

Prints medians, and ratios to the unshared model with 95 % bootstrap intervals, of MiniLM with
layers 1..4 sharing, on one thread; of forward passes also with 8-bit matrices.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, logging

from sharetune.spaces import Recipe, SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.trainers import materialize_, share_
from sharetune.trainers.compression.steps import finish_
from sharetune.trainers.measuring.latency import Latency, summarise, time_in_turns
from sharetune.trainers.training.parameter_groups import parameter_groups

MODEL = Path(__file__).parent.parent / "examples" / "bbc-news" / "model"
PLANS = {
    "bank 0.3": SharingPlan.range(1, 4, 0.3),
    "bank 0.7": SharingPlan.range(1, 4, 0.7),
    "tie": SharingPlan.range(1, 4, 1.0),
}
QUANTISED = {
    "unshared, dynamic-int8": (SharingPlan(), "dynamic-int8"),
    "bank 0.7, int8": (PLANS["bank 0.7"], "int8"),
    "bank 0.7, dynamic-int8": (PLANS["bank 0.7"], "dynamic-int8"),
}


def load() -> PreTrainedModel:
    """MiniLM with five labels."""
    return AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=5)


def training_step(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> Callable[[], object]:
    """One forward, backward and AdamW step of `model`."""
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, Recipe()), fused=True)

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> Callable[[], object]:
    """One forward pass without gradients."""
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(input_ids=batch["input_ids"])

    return run


def batch_of(rows: int, tokens: int, device: str) -> dict[str, torch.Tensor]:
    """Random ids and labels."""
    return {
        "input_ids": torch.randint(1000, 30000, (rows, tokens), device=device),
        "labels": torch.randint(0, 5, (rows,), device=device),
    }


def report(what: str, times: dict[str, list[float]]) -> None:
    """One line a model."""
    for name, own in times.items():
        found: Latency = summarise(own, times["unshared"])
        print(
            f"{what:24} {name:24} {found.median_ms:9.2f} ms   x {found.ratio:.3f} "
            f"[{found.ratio_low:.3f}, {found.ratio_high:.3f}]",
            flush=True,
        )


def main(rounds: int) -> None:
    """Times steps and forward passes of all plans against the unshared model."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shared = {name: share_(load(), plan).to(device) for name, plan in PLANS.items()}
    models = {"unshared": load().to(device)} | shared
    dense = {f"{name}, materialised": materialize_(copy.deepcopy(m)) for name, m in shared.items()}
    small = {
        name: finish_(share_(load(), plan).to(device), Compression(quantize=kind))
        for name, (plan, kind) in QUANTISED.items()
    }
    cuda = device == "cuda"

    batch = batch_of(16, 48, device)
    steps = {name: training_step(model, batch) for name, model in models.items()}
    report("training step 16 x 48", time_in_turns(steps, rounds=rounds, warmup=2, cuda=cuda))
    for rows, tokens in ((1, 48), (1, 128), (32, 48)):
        batch = batch_of(rows, tokens, device)
        runs = {name: forward(model, batch) for name, model in (models | dense | small).items()}
        times = time_in_turns(runs, rounds=4 * rounds if rows == 1 else rounds, warmup=3, cuda=cuda)
        report(f"forward {rows} x {tokens}", times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    main(parser.parse_args().rounds)
