"""Numbers that are exact before training, against what is true after it."""

import copy
import os

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sharetune.spaces import SharingPlan
from sharetune.spaces.plan import presets
from sharetune.trainers import share_
from sharetune.trainers.measuring.sizes import facts, saved_bytes
from sharetune.trainers.tasks.prediction import predict
from tests.families import CONFIGS, tiny


def meta(family):
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(
            copy.deepcopy(CONFIGS[family]), attn_implementation="eager"
        ).eval()


def count(plan, family="bert"):
    shared = share_(meta(family), plan)
    ids = torch.ones(1, 8, dtype=torch.long, device="meta")
    return facts(meta(family), shared, {"input_ids": ids})


@pytest.mark.parametrize("preset", [None, *presets()])
@pytest.mark.parametrize("family", CONFIGS)
def test_bytes_are_those_of_the_file(family, preset, tmp_path):
    model = tiny(family)
    if preset:
        share_(model, SharingPlan.preset(preset))
    expected = saved_bytes(copy.deepcopy(model).to("meta"))
    model.save_pretrained(tmp_path)
    assert os.path.getsize(tmp_path / "model.safetensors") == expected


@pytest.mark.parametrize(
    ("plan", "ratio"),
    [
        (SharingPlan(), 0.0),
        (SharingPlan.preset("albert-all"), 1.0),
        (SharingPlan.preset("sequence"), 0.6),
        (SharingPlan.drop([2, 3]), 0.4),
        (SharingPlan.range(0, 5, 0.5, parts=("attention",)), 0.25),
    ],
)
def test_effective_ratio(plan, ratio):
    # attention and FFN of the tiny model hold 9,216 parameters each
    assert count(plan)["effective_ratio"] == pytest.approx(ratio, abs=1e-6)


def test_parameters_of_the_tiny_model():
    # a layer: 4 x (48 x 48 + 48) + (48 x 96 + 96) + (96 x 48 + 48) + 2 x 2 x 48 = 18,960
    assert count(SharingPlan())["stack_parameters"] == 6 * 18_960
    assert count(SharingPlan.preset("albert-all"))["stack_parameters"] == 18_960


def test_sharing_costs_no_flops_and_dropping_saves_them():
    unshared = count(SharingPlan())["flops"]
    assert count(SharingPlan.range(0, 5, 0.7))["flops"] == unshared
    # a layer's matrices, 2 x 8 tokens x 18,432, and its attention, 2 x 2 x 8 x 8 x 48
    assert unshared - count(SharingPlan.drop([1]))["flops"] == 294_912 + 12_288


def test_predictions_come_in_order():
    model = tiny("bert")
    rows = [{"input_ids": [7, 8, 9 + i]} for i in range(5)]

    def collate(batch):
        return {"input_ids": torch.tensor([row["input_ids"] for row in batch])}

    together = predict(model, data=rows, collate=collate, batch_size=2)
    alone = torch.cat([predict(model, data=[row], collate=collate) for row in rows])
    assert torch.allclose(together, alone, atol=1e-6)
