"""Smaller models: what is removed, from whom, and that the file is that of the smaller model."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sharetune.spaces import Candidate, Group, Recipe, SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ConfigError, ModelError, PlanError
from sharetune.spaces.space import Space
from sharetune.trainers import load_shared, materialize_, share_
from sharetune.trainers.compression import units as compressing
from sharetune.trainers.compression.importance import masked_logits, unit_importance
from sharetune.trainers.compression.magnitude import zero_smallest_
from sharetune.trainers.compression.pruning import tied_units, units_to_keep
from sharetune.trainers.compression.quantisation import (
    DynamicInt8Linear,
    Int4,
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    Rounded,
    integer_product,
    quantise_,
)
from sharetune.trainers.compression.steps import finish_, prune_, reshape_
from sharetune.trainers.compression.units import prune_least_important_
from sharetune.trainers.exports.base import export
from sharetune.trainers.measuring.sizes import deployed_flops, parameters, saved_bytes
from sharetune.trainers.models.structure import find_stacks
from tests.families import inputs, inputs_of, labels_of, logits, tiny
from tests.trainers.conftest import candidate, evaluated, latency, saved

HALF = SharingPlan.range(1, 4, 0.5, units="first")
"""Layers 1 to 4 of 6, of 4 heads and 96 neurons: two heads and 48 neurons of each from a bank."""


def shared(plan=HALF, family="bert"):
    return share_(tiny(family), plan)


def batch(model):
    return {**inputs_of(model), "labels": labels_of(model)}


def test_units_that_a_bank_ties_are_one():
    stack = find_stacks(shared())["layers"]
    attention = [slot for slot in stack.slots if slot.role in ("q", "k", "v", "o")]
    found = {
        (tuple(place[1] for place in tied.places)): tied.positions
        for tied in tied_units(stack, attention)
    }
    assert found == {
        (0,): (0, 1, 2, 3),
        (1, 2, 3, 4): (0, 1),
        **{(layer,): (2, 3) for layer in (1, 2, 3, 4)},
        (5,): (0, 1, 2, 3),
    }


def test_parts_that_are_shared_by_others_tie_together():
    queries = Group(layers="0..1", parts=["q", "k"], units="first")
    values = Group(layers="1..2", parts=["v", "o"], units="first")
    stack = find_stacks(shared(SharingPlan(groups=(queries, values))))["layers"]
    attention = [slot for slot in stack.slots if slot.role in ("q", "k", "v", "o")]
    assert (0, 1, 2) in [
        tuple(place[1] for place in tied.places) for tied in tied_units(stack, attention)
    ]


def test_a_pruned_bank_shrinks_every_reader():
    model = shared()
    before = parameters([model])
    reshape_(model, Compression(heads=0.5, neurons=0.25))
    bank = model.banks[0]
    # one of two shared heads of 12, and 36 of 48 shared neurons
    assert bank["attention_self_query"].weight.shape == (12, 48)
    assert bank["attention_output_dense"].weight.shape == (48, 12)
    assert bank["intermediate_dense"].weight.shape == (36, 48)
    for layer in (1, 2, 3, 4):
        encoder = model.bert.encoder.layer[layer]
        assert encoder.attention.self.query.weight.shape == (24, 48)
        assert encoder.attention.output.dense.weight.shape == (48, 24)
        assert encoder.output.dense.weight.shape == (48, 72)
        assert encoder.attention.self.query.bias.shape == (24,)
    assert model.bert.encoder.layer[0].intermediate.dense.weight.shape == (72, 48)
    # a head is 4 * 12 * 48 weights and 36 biases, a neuron 96 and 1: two heads and 24 neurons of
    # layers 0 and 5, one and 12 of the private ones of 1 to 4, and of the bank
    heads = 2 * 2 * (2304 + 36) + 4 * (2304 + 36) + 2304 + 4 * 36
    neurons = 2 * 24 * 97 + 4 * 12 * 97 + 12 * 96 + 4 * 12
    assert before - parameters([model]) == heads + neurons


@pytest.mark.parametrize(
    "family", ["bert", "gpt2", "llama", "distilbert", "gpt-neox", "bart", "vit"]
)
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_a_pruned_model_computes_what_it_does_without_these_units(family, ratio):
    stack = next(iter(find_stacks(tiny(family))))
    group = Group(layers="0..1", stack=stack, form={"bank": {"ratio": ratio}})
    model = shared(SharingPlan(groups=(group,)), family)
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.dim() > 1):
            matrix.mul_(4)  # so that what is removed shows
    before, many = logits(model), parameters([model])
    prune_least_important_(model, Compression(heads=0.5, neurons=0.5), [batch(model)])
    assert parameters([model]) < 0.85 * many
    assert (logits(model) - before).abs().max() > 0.003 * before.abs().max()


def test_a_model_that_then_computes_something_else_is_refused(monkeypatch):
    monkeypatch.setattr(compressing, "masked_logits", lambda *_: torch.full((2, 2), 9.0))
    model = shared()
    with pytest.raises(ModelError, match="SharedBertForSequenceClassification computes something"):
        prune_least_important_(model, Compression(heads=0.5), [batch(model)])


LOOP = SharingPlan(groups=(Group(layers="1..2", times=2),))
REUSE = SharingPlan(groups=(Group(layers="1..3", form={"reuse": {"what": "kv"}}),))


def test_layers_that_run_again_are_pruned_once():
    group = Group(layers="1..2", times=2, form={"bank": {"ratio": 0.5}})
    for plan in (LOOP, SharingPlan(groups=(group,))):
        model = shared(plan)
        many = parameters([model])
        prune_least_important_(model, Compression(heads=0.5, neurons=0.25), [batch(model)])
        assert parameters([model]) < many
        assert logits(model).isfinite().all()


def test_reused_keys_stay_but_neurons_go(tmp_path):
    with pytest.raises(PlanError, match="heads of a Borrower cannot be removed"):
        prune_least_important_(shared(REUSE), Compression(heads=0.5), [])
    model, compression = shared(REUSE), Compression(neurons=0.5, quantize="int8")
    prune_least_important_(model, compression, [batch(model)])
    before = logits(model)
    finish_(model, compression).save_pretrained(tmp_path)
    assert torch.nn.functional.cosine_similarity(before, logits(model), 1).min() > 0.99
    assert torch.allclose(logits(load_shared(tmp_path)), logits(model), atol=1e-6)


def test_importance_is_the_first_order_change_of_the_loss():
    model = tiny("bert").double()
    given = batch(model)
    found = unit_importance(model, [given])["layers", 2, ""]
    place, rest = ("layers", 2, ""), torch.arange(1, 96)

    def loss(fraction):
        def scaled(_, entering):
            changed = entering[0].clone()
            changed[..., 0] *= 1 - fraction
            return (changed,)

        module = model.bert.encoder.layer[2].output.dense
        handle = module.register_forward_pre_hook(scaled)
        result = torch.nn.functional.cross_entropy(
            model(**inputs()).logits, given["labels"], reduction="none"
        ).detach()
        handle.remove()
        return result

    # of two examples the loss is the mean, so is the gradient
    slope = ((loss(1e-4) - loss(0.0)) / 1e-4).abs().sum() / 2
    assert found[0].item() == pytest.approx(slope.item(), rel=1e-3)
    assert masked_logits(model, {place: rest}, inputs()).shape == (2, 2)


def test_the_least_important_go_first():
    model = shared()
    scores = {
        ("layers", layer, "attention"): torch.tensor([4.0, 3.0, 2.0, 1.0]) for layer in range(6)
    }
    kept = units_to_keep(model, Compression(heads=0.5), scores)
    assert kept["layers", 0, "attention"].tolist() == [0, 1]
    assert kept["layers", 2, "attention"].tolist() == [0, 2]
    assert kept["layers", 1, "attention"].tolist() == [0, 2]


def test_what_cannot_be_pruned_is_refused():
    with pytest.raises(PlanError, match="the heads of stack 'encoder' cannot be removed"):
        reshape_(share_(tiny("t5"), SharingPlan()), Compression(heads=0.5))
    low = SharingPlan(groups=(Group(layers="1..4", form={"lowrank": {"rank": 4}}),))
    with pytest.raises(PlanError, match="neurons of a LowRankLinear cannot be removed"):
        reshape_(shared(low), Compression(neurons=0.5))


def test_the_smallest_entries_are_zero_and_stay_zero():
    model = shared(SharingPlan.range(0, 5, 1.0))
    starts = {id(p): p.detach().abs().clone() for p in model.banks.parameters()}
    keeper = zero_smallest_(model, 0.6)
    matrices = [p for p in model.banks.parameters() if p.dim() > 1]
    many = sum(p.numel() for p in matrices)
    assert many == 4 * 48 * 48 + 2 * 48 * 96
    assert sum(int((p == 0).sum()) for p in matrices) == int(0.6 * many)
    largest_gone = max(float(starts[id(p)][p == 0].max()) for p in matrices)
    smallest_left = min(float(starts[id(p)][p != 0].min()) for p in matrices)
    assert largest_gone < smallest_left
    with torch.no_grad():
        matrices[0].add_(1.0)
    keeper.enforce()
    assert sum(int((p == 0).sum()) for p in matrices) == int(0.6 * many)


def test_eight_bits_by_row():
    table = Int8Embedding(torch.tensor([[1.0, -0.5], [0.0, 0.0], [127.0, 0.4]]))
    # scales 1 / 127, smallest, 1: -0.5 is -63.5 steps, and halves go to even
    assert table.numbers.tolist() == [[127, -64], [0, 0], [127, 0]]
    assert table(torch.tensor([2, 0]))[0].tolist() == [127.0, 0.0]
    assert table.weight[0].tolist() == pytest.approx([1.0, -64 / 127])


def test_four_bits_by_groups_of_32():
    row = torch.zeros(2, 33)
    row[0, 0], row[0, 1], row[0, 2], row[0, 32], row[1, 5] = 7.0, -3.0, 0.4, 10.0, -1.4
    table = Int4(row)
    # scales 1 and 10 / 7 in the first row: 7, -3, 0; 7; each stored larger by 8, two in a byte
    assert table.numbers.shape == (2, 17) and table.numbers.dtype == torch.uint8
    assert table.numbers[0, [0, 1, 16]].tolist() == [15 + 16 * 5, 8 + 16 * 8, 15 + 16 * 8]
    assert table.scale[0].tolist() == pytest.approx([1.0, 10 / 7])
    expected = row.clone()
    expected[0, 2] = 0
    assert torch.allclose(table.weight, expected)


def test_sizes_of_four_bits(tmp_path):
    model = finish_(shared(SharingPlan.range(0, 5, 1.0)), Compression(quantize="int4"))
    model.save_pretrained(tmp_path)
    assert saved_bytes(model) == (tmp_path / "model.safetensors").stat().st_size
    # as in 8 bits below, less half of 18,432 + 2,304 numbers; for one scale two in a row of 48, and
    # three in the 48 rows of 96
    eight = finish_(shared(SharingPlan.range(0, 5, 1.0)), Compression(quantize="int8"))
    less, more = (18432 + 2304) // 2, 4 * (4 * 48 + 96 + 48 + 2 * 48)
    tensors = [sum(t.numel() * t.itemsize for t in m.parameters()) for m in (eight, model)]
    assert tensors[0] - tensors[1] == less - more


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_steps_with_rounded_weights(family):
    model = shared(SharingPlan.range(0, 1, 0.5), family)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    exact = logits(model)
    (rounding,) = prune_(model, Compression(quantize="int4", aware=True, recover=0.1), [])
    rounding.on_step_begin(None, None, None)
    rounded = logits(model)
    rounding.on_pre_optimizer_step(None, None, None)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(logits(model), exact) and not torch.allclose(rounded, exact)
    finish_(model, Compression(quantize="int4"))
    assert torch.allclose(logits(model), rounded, atol=1e-5)


def test_aware_of_rounding_needs_further_training():
    with pytest.raises(ConfigError, match="aware trains with rounded weights for `recover`"):
        Compression(quantize="int4", aware=True)
    nothing = Candidate(compression=Compression(recover=0.5, aware=True)).bound({})
    assert nothing == Candidate().bound({})
    asked = Compression(quantize="int8", recover=0.5, aware=True)
    assert asked.canonical() == asked
    assert Compression.model_validate(asked.model_dump(exclude_defaults=True)) == asked


@pytest.mark.slow
def test_a_trial_aware_of_rounding(evaluator, tmp_path):
    plain = candidate(evaluator, SharingPlan.range(0, 3, 1.0), steps=30)
    compression = Compression(quantize="int4", recover=0.5, aware=True)
    found = evaluated(evaluator, plain.model_copy(update={"compression": compression}), tmp_path)
    assert found.curve[-1][0] == 45
    assert found.scores.metrics["accuracy"] > 0.5
    model = load_shared(saved(tmp_path))
    assert any(isinstance(module, Int4Linear) for module in model.modules())


def test_products_of_eight_bits():
    weight = torch.tensor([[2.0, 1.0], [0.0, -4.0]])
    layer = DynamicInt8Linear(weight, torch.nn.Parameter(torch.ones(2)), transposed=False)
    # numbers 127, 64 at 1 / 127 by 127, 64 at 2 / 127 and 0, -127 at 4 / 127; the bias is 1
    found = layer(torch.tensor([[[1.0, 0.5]]]))
    assert found.shape == (1, 1, 2)
    assert found[0, 0].tolist() == pytest.approx([1 + 40450 / 16129, 1 - 32512 / 16129])
    # each token has its own scale, and nothing stays nothing
    two = layer(torch.tensor([[1000.0, 500.0], [0.0, 0.0]]))
    assert two[0].tolist() == pytest.approx([1 + 40450 / 16.129, 1 - 32512 / 16.129])
    assert two[1].tolist() == [1.0, 1.0]


def test_integer_products_of_odd_shapes():
    left = torch.randint(-127, 128, (5, 9), dtype=torch.int8)
    right = torch.randint(-127, 128, (3, 9), dtype=torch.int8)
    assert torch.equal(integer_product(left, right).float(), left.float() @ right.float().T)


@pytest.mark.parametrize("kind", [Int8Linear, DynamicInt8Linear, Int4Linear])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_a_quantised_model_answers_nearly_alike(family, kind):
    stack = next(iter(find_stacks(tiny(family))))
    ratio = "tie" if kind is Int8Linear else {"bank": {"ratio": 0.5}}
    model = shared(SharingPlan(groups=(Group(layers="0..1", stack=stack, form=ratio),)), family)
    before = logits(model)
    quantise_(model, kind)
    assert not torch.equal(logits(model), before)
    assert any(isinstance(module, Rounded) for module in model.banks.modules())
    near = 0.97 if kind is Int4Linear else 0.99
    alike = torch.nn.functional.cosine_similarity(before.flatten(), logits(model).flatten(), 0)
    assert alike > near
    dense = materialize_(model)
    assert not any(isinstance(module, Rounded) for module in dense.modules())


@pytest.mark.slow
def test_products_in_eight_bits_count_as_operations():
    for plan in (HALF, SharingPlan.range(0, 5, 1.0), SharingPlan()):
        model = shared(plan)
        before = deployed_flops(model, inputs())
        finish_(model, Compression(quantize="dynamic-int8"))
        assert before == deployed_flops(model, inputs()) == 3990912


@pytest.mark.parametrize("kind", ["int8", "dynamic-int8"])
def test_sizes_of_the_file(tmp_path, kind):
    model = finish_(shared(SharingPlan.range(0, 5, 1.0)), Compression(quantize=kind))
    model.save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert saved_bytes(model) == size
    # int8: layer 18,432, embeddings (99 + 40 + 2) * 48, pooler 48 * 48; scales of 4 bytes a row:
    # 4 * 48 + 96 + 48, 141, 48; in full: biases 6 * 336, norms 13 * 96, pooler's 48, head 98
    numbers = 18432 + 6768 + 2304
    floats = 336 + 141 + 48 + 6 * 336 + 13 * 96 + 48 + 98
    assert numbers + 4 * floats == 43244
    assert saved_bytes(shared(SharingPlan.range(0, 5, 1.0))) > 123_656  # 30,914 numbers in full
    with open(tmp_path / "model.safetensors", "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    assert size - 8 - header == numbers + 4 * floats


@pytest.mark.parametrize(
    "compression",
    [
        pytest.param({"heads": 0.5, "neurons": 0.25}, marks=pytest.mark.slow),
        pytest.param({"quantize": "int8"}, marks=pytest.mark.slow),
        pytest.param({"quantize": "dynamic-int8"}, marks=pytest.mark.slow),
        {"heads": 0.5, "quantize": "int8"},
        pytest.param({"heads": 0.5, "quantize": "dynamic-int8"}, marks=pytest.mark.slow),
        {"quantize": "int4"},
    ],
)
def test_a_compressed_model_loads_in_one_line(tmp_path, compression):
    model, compression = shared(), Compression(**compression)
    if compression.prunes:
        prune_least_important_(model, compression, [batch(model)])
    finish_(model, compression)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.allclose(logits(loaded), logits(model), atol=1e-6)
    assert loaded.sharing == model.sharing
    assert parameters([loaded]) == parameters([model])


@pytest.mark.parametrize(
    ("compression", "format", "message"),
    [
        ({"heads": 0.5}, "dense", "the dense format cannot hold layers with fewer heads"),
        ({"neurons": 0.5}, "albert", "the albert format cannot hold layers with fewer heads"),
        ({"quantize": "dynamic-int8"}, "albert", "the albert format cannot hold 8-bit matrices"),
        ({"quantize": "int8"}, "onnx", "the onnx format cannot hold 8-bit matrices"),
        ({"quantize": "int4"}, "onnx", "the onnx format cannot hold 4-bit matrices"),
    ],
)
def test_formats_that_cannot_hold_it(tmp_path, compression, format, message):
    model = reshape_(shared(), Compression(**compression))
    with pytest.raises(ModelError, match=message):
        export(model, tmp_path / "out", format)
    assert export(model, tmp_path / "out").difference == 0.0


@pytest.mark.slow
def test_a_trial_is_measured_compressed(evaluator, tmp_path):
    plain = candidate(evaluator, SharingPlan.range(0, 3, 0.5), steps=30)
    compression = Compression(heads=0.5, neurons=0.25, magnitude=0.1, recover=0.5, quantize="int8")
    small = plain.model_copy(update={"compression": compression})
    exact, before = evaluator.sizes(small), evaluator.sizes(plain)
    found = evaluated(evaluator, small, tmp_path)
    assert found.curve[-1][0] == 45
    model = load_shared(saved(tmp_path))
    assert exact["parameters"] == parameters([model]) < before["parameters"]
    size = (saved(tmp_path) / "model.safetensors").stat().st_size
    assert exact["bytes"] == size < before["bytes"] / 2
    assert exact["flops"] < before["flops"]
    assert exact["effective_ratio"] == before["effective_ratio"]
    assert found.scores.metrics["accuracy"] > 0.5
    measured = latency(evaluator, saved(tmp_path), threads=1, rounds=2)
    assert measured["forms"]["stored"]["median_ms"] > 0


def test_compression_that_cannot_be_done_is_told_before_anything_is_trained(evaluator):
    plan = SharingPlan(groups=(Group(layers="1..2", form={"atoms": {"count": 2}}),))
    bad = Candidate(plan=plan, compression=Compression(heads=0.5), recipe=Recipe(max_length=12))
    with pytest.raises(
        PlanError, match="heads of a AtomsLinear cannot be removed: they are not its own"
    ):
        evaluator.refuse([bad])


def test_compression_is_searched_like_everything_else():
    leaves = {"heads": {"low": 0.0, "high": 0.5}, "quantize": {"choices": [None, "int8"]}}
    space = Space(compression=leaves)
    assert space.reference_compression() == Compression()
    found = {c.compression.quantize for c in space.check({})}
    assert found == {None, "int8"}
    nothing = Candidate(compression=Compression(recover=0.5)).bound({})
    assert nothing == Candidate().bound({})
