"""Banks that layers read unlike fractions of: what each stores, and what it starts from."""

import copy

import pytest
import torch

from sharetune.spaces import SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.layer_map import layer_map
from sharetune.trainers import load_shared, materialize_, share_
from sharetune.trainers.compression.pruning import units_to_keep
from sharetune.trainers.compression.quantisation import (
    DynamicInt8Linear,
    Int8Linear,
    quantise_,
)
from sharetune.trainers.compression.steps import reshape_
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.sizes import facts, parameters
from sharetune.trainers.models.alignment import ORDERS, UnitView
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.modules import products_apart
from sharetune.trainers.models.softening import harden_
from sharetune.trainers.models.structure import stack_shapes
from tests.families import inputs, inputs_of, logits, tiny

RATIOS = "[0.25, 0.75, 0.5, 0.75]"
FAMILIES = ["bert", "gpt2", "llama", "distilbert", "gpt-neox", "vit"]


def plan(ratio=RATIOS, layers="0..3", **rule):
    form = {"bank": {"ratio": ratio}}
    group = {"layers": layers, "form": form} | rule
    return SharingPlan.model_validate({"groups": [group]})


def written(ratio):
    return [float(number) for number in ratio.strip("[]").split(",")]


def shared(family="bert", ratio=RATIOS, **rule):
    model = tiny(family)
    recorded = record_activations(model, [inputs_of(model)])
    return share_(model, plan(written(ratio), **rule), recorded)


def test_the_bank_is_what_the_largest_reads():
    model = shared()
    bank, layers = model.banks[0], model.bert.encoder.layer
    assert bank["intermediate_dense"].weight.shape == (72, 48)  # three quarters of 96 neurons
    private = [layers[i].intermediate.dense.private.weight.shape[0] for i in range(4)]
    assert private == [72, 24, 48, 24]
    assert bank["attention_self_query"].weight.shape == (36, 48)  # three of four heads of 12
    heads = [layers[i].attention.self.query.private.weight.shape[0] for i in range(4)]
    assert heads == [36, 12, 24, 12]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_known_before_the_model_is_built(family):
    model = tiny(family).to("meta")
    given = {name: values.to("meta") for name, values in inputs_of(model).items()}
    counted = Counting(model, given).facts(plan(written(RATIOS)))
    assert counted == facts(model, share_(copy.deepcopy(model), plan(written(RATIOS))), given)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_equals_loaded_and_dense(family, tmp_path):
    model = shared(family)
    before = logits(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_shared(tmp_path)), before)
    with products_apart(model):
        assert torch.allclose(logits(model), before, atol=1e-6)
    assert torch.allclose(logits(materialize_(model)), before, atol=1e-6)


def test_each_layers_least_important_units_read_the_first_of_the_bank():
    one = UnitView(torch.tensor([3.0, 1.0, 2.0, 4.0]), lambda: torch.eye(4))
    two = UnitView(torch.tensor([1.0, 2.0, 3.0, 4.0]), lambda: torch.eye(4)[[1, 0, 3, 2]])
    # the leader's least is unit 1, then 2; the other layer shares one: its least, unit 0
    found = ORDERS["importance"]([one, two], [2, 1])
    assert [own.tolist()[:count] for own, count in zip(found, (2, 1), strict=True)] == [[1, 2], [0]]


def test_units_start_from_the_mean_of_those_who_read_them():
    unshared = tiny("bert").bert.encoder.layer
    weights = [unshared[i].intermediate.dense.weight.detach().clone() for i in range(4)]
    model = shared(units="first")
    bank = model.banks[0]["intermediate_dense"].weight
    assert torch.allclose(bank[:24], sum(w[:24] for w in weights) / 4, atol=1e-6)
    three = sum(weights[i][24:48] for i in (1, 2, 3)) / 3
    assert torch.allclose(bank[24:48], three, atol=1e-6)
    assert torch.allclose(bank[48:72], (weights[1] + weights[3])[48:72] / 2, atol=1e-6)


def test_a_copy_from_a_layer_that_reads_less_is_completed():
    unshared = tiny("bert").bert.encoder.layer
    weights = [unshared[i].intermediate.dense.weight.detach().clone() for i in range(4)]
    bank = shared(units="first", init="first").banks[0]["intermediate_dense"].weight
    assert torch.equal(bank[:24], weights[0][:24])
    assert torch.allclose(bank[48:72], (weights[1] + weights[3])[48:72] / 2, atol=1e-6)


def test_a_layer_beside_the_bank_gives_all_of_it():
    unshared = tiny("bert").bert.encoder.layer[5].intermediate.dense.weight.detach().clone()
    bank = shared(units="first", init=5).banks[0]["intermediate_dense"].weight
    assert torch.equal(bank, unshared[:72])


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_pruning_removes_a_unit_of_the_bank_for_all_who_read_it(family, tmp_path):
    model = shared(family, ratio="[0.25, 0.5, 0.75, 0.75]")  # the first reads less than the bank
    many = parameters([model])
    reshape_(model, Compression(neurons=0.5))
    assert parameters([model]) < many
    assert torch.isfinite(logits(model)).all()
    kept = units_to_keep(model, Compression(neurons=0.0))
    assert kept == {}
    model.save_pretrained(tmp_path)


def test_a_pruned_bank_is_the_same_for_readers_of_all_sizes():
    model = shared(ratio="[0.25, 0.5, 0.75, 0.75]")
    reshape_(model, Compression(neurons=0.5))
    bank = model.banks[0]["intermediate_dense"].weight
    assert bank.shape == (36, 48)  # 12 of each 24 neurons that the same layers read
    layers = model.bert.encoder.layer
    assert [layers[i].intermediate.dense.reads.shared for i in range(4)] == [
        (12,),
        (24,),
        (36,),
        (36,),
    ]
    assert torch.equal(layers[0].intermediate.dense.weight[:12], bank[:12])


@pytest.mark.parametrize("kind", [Int8Linear, DynamicInt8Linear])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_quantised_bank_is_cut_alike(family, kind):
    model = shared(family)
    before = logits(model)
    quantise_(model, kind)
    assert (logits(model) - before).abs().max() < 0.05 * before.abs().max()


def test_untying_starts_each_layers_private_units_from_the_leaders():
    model = tiny("bert")
    share_(model, plan(written(RATIOS), units="first"), schedule="untie")
    tied = share_(tiny("bert"), plan(1.0, units="first"))
    assert torch.allclose(logits(model), logits(tied), atol=1e-6)
    harden_(model)
    assert torch.allclose(logits(model), logits(tied), atol=1e-6)
    assert model.bert.encoder.layer[0].intermediate.dense.private.weight.shape == (72, 48)


def test_layers_that_run_twice_read_their_own_fraction():
    looped = plan([0.5, 0.25, 0.5], layers="1..3", times=2)
    model = share_(tiny("bert"), looped)
    layers = model.bert.encoder.layer
    assert len(layers) == 9
    private = [layers[i].intermediate.dense.private.weight.shape[0] for i in (1, 2, 3, 5)]
    assert private == [48, 72, 48, 72]


def test_drawings_fill_each_layer_as_much_as_it_reads():
    bound = plan(written(RATIOS)).bound(stack_shapes(tiny("bert")))
    shares = [layer.ffn[0].share for layer in layer_map(bound, {"layers": 6})[:4]]
    assert shares == [0.21, 0.71, 0.5, 0.71]  # the shortest for 1, 3, 2 heads and so many neurons


def test_all_banks_learn():
    model = shared()
    model(**inputs(), labels=torch.tensor([0, 1])).loss.backward()
    assert (model.banks[0]["intermediate_dense"].weight.grad.abs().sum(1) > 0).all()
