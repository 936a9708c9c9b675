"""Do repeats of one model agree? Latency ratios of the same models, measured again and again.

    python examples/bbc-news/prepare.py
    python benchmarks/latency.py [--repeats 5] [--rounds 40] [--batch 1]

Each repeat loads the models anew, as the search does. Prints every ratio to the unshared model
and, a model, the spread of its ratios: (highest - lowest) / mean. The aim is below 2 %.
"""

import argparse
import copy

import torch
from steps import MODEL, PLANS, batch_of
from transformers import AutoModelForSequenceClassification, PreTrainedModel, logging

from sharetune.trainers import materialize_, share_
from sharetune.trainers.measuring.latency import compare, uses


def models(device: str) -> dict[str, PreTrainedModel]:
    """The unshared model, once more the same, and two plans as stored and materialised."""

    def load() -> PreTrainedModel:
        found = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=5)
        return found.to(device)

    shared = {name: share_(load(), PLANS[name]) for name in ("bank 0.7", "tie")}
    dense = {f"{name}, materialised": materialize_(copy.deepcopy(m)) for name, m in shared.items()}
    return {"unshared": load(), "unshared again": load(), **shared, **dense}


def main(repeats: int, rounds: int, batch: int) -> None:
    """Measures, and prints ratios and their spread."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = {"input_ids": batch_of(batch, 128, device)["input_ids"]}
    ratios: dict[str, list[float]] = {}
    for repeat in range(repeats):
        runs = uses(models(device), inputs)
        found = compare(runs, "unshared", torch.device(device), rounds=rounds)
        for name, latency in found.models.items():
            ratios.setdefault(name, []).append(latency.ratio)
        print(
            f"repeat {repeat}: {found.rounds} rounds, the unshared model "
            f"{found.models['unshared'].median_ms:.1f} ms, drifted by {found.drift:+.1%}; "
            f"preempted {found.preempted:.2f} times a use",
            flush=True,
        )
    for name, own in ratios.items():
        spread = (max(own) - min(own)) / (sum(own) / len(own))
        texts = " ".join(f"{ratio:.3f}" for ratio in own)
        print(f"{name:22} {texts}   spread {spread:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=1)
    main(**vars(parser.parse_args()))
