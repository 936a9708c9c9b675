"""What a calibrated start keeps of every matrix's output, before any training.

    python examples/bbc-news/prepare.py
    python benchmarks/reconstruction.py

Shares all six layers of MiniLM by each calibrated form, started from the weights alone and from
what enters them on 64 training articles, and prints the relative error (0..1) of the outputs on
64 articles of the test split, given the unshared model's inputs. Units stay as they lie.
"""

from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from sharetune.spaces import Group, SharingPlan
from sharetune.spaces.forms import Atoms, Basis, Form, LowRank
from sharetune.trainers import share_
from sharetune.trainers.models.calibration import Activations, record_activations
from sharetune.trainers.models.structure import find_stacks

EXAMPLE = Path(__file__).parent.parent / "examples" / "bbc-news"
ARTICLES, TOKENS = 64, 48
FORMS: tuple[Form, ...] = (LowRank(rank=85), Basis(rank=177), Atoms(count=2), Atoms(count=3))


def record(split: str) -> Activations:
    """What enters every matrix on articles spread over the split."""
    texts = pd.read_csv(EXAMPLE / "data" / f"{split}.csv")["text"]
    chosen = list(texts.iloc[:: len(texts) // ARTICLES])[:ARTICLES]
    read = AutoTokenizer.from_pretrained(EXAMPLE / "model")
    batch = read(chosen, truncation=True, max_length=TOKENS, padding=True, return_tensors="pt")
    return record_activations(AutoModel.from_pretrained(EXAMPLE / "model"), [batch], 10**6)


def errors(form: Form, calibration: Activations | None, held_out: Activations) -> dict[str, float]:
    """Relative error of the outputs by kind of matrix: the root of squares over squares."""
    dense = AutoModel.from_pretrained(EXAMPLE / "model")
    shared = AutoModel.from_pretrained(EXAMPLE / "model")
    slots = next(iter(find_stacks(dense).values())).slots
    plan = SharingPlan(groups=(Group(layers="0..5", form=form, units="first"),))
    share_(shared, plan, calibration)
    return {slot.role: relative_error(dense, shared, slot.path, held_out) for slot in slots}


def relative_error(
    dense: PreTrainedModel, shared: PreTrainedModel, path: str, held_out: Activations
) -> float:
    """Over all layers' matrices at `path`."""
    lost = whole = 0.0
    for i, (one, other) in enumerate(zip(dense.encoder.layer, shared.encoder.layer, strict=True)):
        before, after = one.get_submodule(path).weight, other.get_submodule(path).weight
        inputs = held_out["layers", i, path]
        lost += float((inputs @ (before - after).T).square().sum())
        whole += float((inputs @ before.T).square().sum())
    return float((lost / whole) ** 0.5)


if __name__ == "__main__":
    with torch.no_grad():
        calibration, held_out = record("train"), record("test")
        print("| form | started from | q | k | v | o | fc_in | fc_out |\n" + "|---" * 8 + "|")
        for form in FORMS:
            for name, given in (("weights", None), ("inputs", calibration)):
                found = " | ".join(f"{e:.2f}" for e in errors(form, given, held_out).values())
                knobs = " ".join(map(str, form.model_dump(exclude_defaults=True).values()))
                print(f"| {form.name} {knobs} | {name} | {found} |")
