"""Sharing against published counts, the unshared model and the sum rule of gradients."""

import os

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import ModelError, PlanError
from sharetune.trainers import is_shared, materialize_, share_, share_params
from sharetune.trainers.measuring.sizes import parameters
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.structure import find_stacks, weight_out_in
from tests.families import CONFIGS, SIZES, inputs, logits, tiny


@pytest.mark.parametrize(
    ("preset", "published_millions", "exact"),
    [
        (None, 108, 108_490_752),
        ("albert-all", 31, 30_524_160),
        ("albert-attention", 83, 82_504_704),
        ("albert-ffn", 57, 56_544_000),
    ],
)
def test_albert_counts_for_embeddings_of_768(preset, published_millions, exact):
    """ALBERT (arXiv 1909.11942), table 4: E = 768, its vocabulary of 30,000, no pooler."""
    with torch.device("meta"):
        model = BertModel(BertConfig(vocab_size=30_000), add_pooling_layer=False)
    if preset:
        share_(model, SharingPlan.preset(preset))
    assert parameters([model]) == exact
    assert round(exact / 1e6) == published_millions


@pytest.mark.parametrize(
    ("ratio", "millions"), [(0.3, 98.9), (0.5, 91.8), (0.7, 84.7), (0.9, 77.6), (1.0, 74.1)]
)
def test_bert_base_with_layers_2_to_7_shared(ratio, millions):
    """The ideal count; a whole number of 12 heads moves it by up to half a million."""
    with torch.device("meta"):
        model = BertModel(BertConfig())
    share_(model, SharingPlan.range(2, 7, ratio, parts=("attention", "ffn")))
    assert parameters([model]) / 1e6 == pytest.approx(millions, abs=0.5)


@pytest.mark.parametrize("family", CONFIGS)
def test_ratio_zero_is_the_unshared_model_bit_for_bit(family):
    unshared = logits(tiny(family))
    shared = share_(tiny(family), SharingPlan.range(0, 5, 0.0))
    assert torch.equal(logits(shared), unshared)


def test_a_bank_starts_as_its_init_says():
    weights = [tiny("bert").bert.encoder.layer[i].intermediate.dense.weight for i in range(6)]
    starts = {
        "first": weights[1],
        "middle": weights[2],
        "last": weights[4],
        "mean": (weights[1] + weights[2] + weights[3] + weights[4]) / 4,
    }
    for init, start in starts.items():
        model = share_params(tiny("bert"), 1, 4, 1.0, init=init, units="first")
        shared = model.bert.encoder.layer[3].intermediate.dense.weight
        assert torch.allclose(shared, start, atol=1e-7), init


def test_banks_of_a_loop_start_stepwise():
    # RRT: layers 1 to 4 as two banks in turn, run twice; they start from layers 1 and 4
    weights = [layer.output.dense.weight for layer in tiny("bert").bert.encoder.layer]
    rule = {"layers": "1..4", "assign": {"cycle": 2}, "init": "stepwise", "units": "first"}
    for times in (1, 2):
        plan = SharingPlan.model_validate({"groups": [rule | {"times": times}]})
        layers = share_(tiny("bert"), plan).bert.encoder.layer
        starts = [weights[0], *[weights[1], weights[4]] * (2 * times), weights[5]]
        assert len(layers) == len(starts)
        for layer, start in zip(layers, starts, strict=True):
            assert torch.equal(layer.output.dense.weight, start)


def test_a_bank_may_start_from_any_layer():
    # layer 0 is private, 2 another bank's, 5 dropped
    for layer in (0, 2, 5):
        start = tiny("bert").bert.encoder.layer[layer].intermediate.dense.weight
        other = {"layers": [2, 4], "units": "first", "init": "last"}
        groups = [{"layers": [1, 3], "init": layer, "units": "first"}, other]
        plan = {"groups": [*groups, {"layers": [5], "form": "drop"}]}
        model = share_(tiny("bert"), SharingPlan.model_validate(plan))
        for index in (1, 3):
            shared = model.bert.encoder.layer[index].intermediate.dense.weight
            assert torch.equal(shared, start)
        assert len(model.banks) == 2


@pytest.mark.parametrize("form", [{"bank": {"ratio": 0.5}}, {"lowrank": {"rank": 48}}], ids=str)
def test_a_bank_that_starts_from_another_layer_is_matched_to_it(form):
    model = tiny("bert")
    layers = model.bert.encoder.layer
    for other in (layers[4], layers[5]):
        other.load_state_dict(layers[1].state_dict())
    with torch.no_grad():
        up, down, order = layers[5].intermediate.dense, layers[5].output.dense, torch.randperm(96)
        up.weight.copy_(up.weight[order])
        up.bias.copy_(up.bias[order])
        down.weight.copy_(down.weight[:, order])
    unshared = logits(model)
    # the inputs of equal layers differ, and with them which of their units are important
    activations = None if "bank" in form else record_activations(model, [inputs(8)])
    rule = {"layers": [1, 4], "form": form, "parts": "ffn", "init": 5}
    share_(model, SharingPlan.model_validate({"groups": [rule]}), activations)
    assert torch.allclose(logits(model), unshared, atol=1e-6)


def test_private_units_keep_their_pretrained_weights():
    dense = tiny("bert").bert.encoder.layer[3]
    shared = share_params(tiny("bert"), 1, 4, 0.5, units="first").bert.encoder.layer[3]
    assert torch.equal(
        shared.attention.self.query.weight[24:], dense.attention.self.query.weight[24:]
    )
    assert torch.equal(shared.output.dense.weight[:, 48:], dense.output.dense.weight[:, 48:])
    assert torch.equal(shared.output.LayerNorm.weight, dense.output.LayerNorm.weight)
    assert torch.equal(shared.intermediate.dense.bias, dense.intermediate.dense.bias)


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_the_gradient_of_a_bank_is_the_sum_over_its_readers(ratio):
    shared = share_params(tiny("bert"), 1, 4, ratio)
    dense = materialize_(share_params(tiny("bert"), 1, 4, ratio))
    for model in (shared, dense):
        model(**inputs(), labels=torch.tensor([0, 1])).loss.backward()
    rows = 24 if ratio == 0.5 else 48
    readers = [dense.bert.encoder.layer[i].attention.self.key.weight.grad for i in range(1, 5)]
    expected = readers[0] + readers[1] + readers[2] + readers[3]
    bank = shared.banks[0]["attention_self_key"].weight.grad
    assert torch.allclose(bank, expected[:rows], atol=1e-7)


def test_a_saved_plan_is_smaller_by_the_computed_amount(tmp_path):
    unshared, shared = tiny("bert"), share_params(tiny("bert"), 1, 4, 0.7)
    sizes = []
    for name, model in (("unshared", unshared), ("shared", shared)):
        model.save_pretrained(tmp_path / name)
        sizes.append(os.path.getsize(tmp_path / name / "model.safetensors"))
    # 3 of 4 heads: 3 layers x 4 matrices x 36 x 48; 64 of 96 neurons: 3 layers x 2 x 64 x 48
    saved = 4 * (3 * 4 * 36 * 48 + 3 * 2 * 64 * 48)
    header = 3000
    assert saved - header < sizes[0] - sizes[1] < saved + header


def test_dropped_layers_are_gone_and_the_others_are_untouched():
    dropped = share_(tiny("bert"), SharingPlan.drop([2, 3]))
    kept = [tiny("bert").bert.encoder.layer[i] for i in (0, 1, 4, 5)]
    assert dropped.config.num_hidden_layers == 4
    for one, two in zip(dropped.bert.encoder.layer, kept, strict=True):
        assert torch.equal(one.output.dense.weight, two.output.dense.weight)


def test_materialised_models_are_ordinary_ones(tmp_path):
    model = materialize_(share_params(tiny("bert"), 1, 4, 0.7))
    before = logits(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again).__name__ == "BertForSequenceClassification"
    assert torch.equal(logits(again.eval()), before)


def test_sharing_twice_is_refused():
    model = share_params(tiny("bert"), 1, 4, 0.7)
    assert is_shared(model)
    with pytest.raises(ModelError, match="shared already, by the plan layers 1..4 bank 0.7"):
        share_params(model, 1, 4, 0.7)


def test_parts_that_a_model_lacks():
    with pytest.raises(PlanError, match="has none of the parts"):
        share_(tiny("bert"), SharingPlan.range(1, 4, 1.0, parts=("gate",)))


def test_a_plan_must_leave_a_layer():
    with pytest.raises(PlanError, match="would lose all 6"):
        share_(tiny("bert"), SharingPlan.drop(range(6)))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "vit"])
def test_a_single_layer_that_a_plan_leaves_is_the_stack_still(family):
    name, stack = next(iter(find_stacks(tiny(family)).items()))
    layers = list(range(1, stack.length))
    groups = [{"stack": name, "layers": layers, "form": "drop"}]
    left = share_(tiny(family), SharingPlan.model_validate({"groups": groups}))
    assert {name: len(stack.layers) for name, stack in find_stacks(left).items()} == {name: 1}


def test_a_single_layer_is_no_stack():
    with pytest.raises(ModelError, match="no stack of at least two layers"):
        share_params(BertModel(BertConfig(**SIZES | {"num_hidden_layers": 1})), 0, 1, 0.5)


def test_linears_are_out_by_in():
    dense = tiny("bert").bert.encoder.layer[0].intermediate.dense
    assert weight_out_in(dense).shape == (96, 48)
