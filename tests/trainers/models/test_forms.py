"""Low rank, basis and atoms: exact where they must be, counted as their formulas say."""

import copy
import json
import os
from functools import cache

import optuna
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, BartConfig, BartModel

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import PlanError, SharetuneError
from sharetune.spaces.forms import Atoms, read_form, write_form
from sharetune.spaces.inits import INITS
from sharetune.spaces.space import Space
from sharetune.trainers import materialize_, share_
from sharetune.trainers.measuring.sizes import facts, saved_bytes
from sharetune.trainers.models.alignment import ORDERS, align_
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.forms.eigen import shared_input, shared_output
from sharetune.trainers.models.forms.lowrank import factors
from sharetune.trainers.models.modules import products_apart
from sharetune.trainers.models.structure import Slot, find_stacks, stack_shapes
from tests.families import CONFIGS, inputs, logits, tiny

FORMS = [
    {"lowrank": {"rank": 8}},
    {"lowrank": {"rank": 8, "diagonal": True}},
    {"lowrank": {"rank": 0, "diagonal": True}},
    {"lowrank": {"rank": 8, "heads": True}},
    {"basis": {"rank": 24}},
    {"basis": {"rank": 40}},
    {"atoms": {"count": 2}},
]

LOUD_FIRST = torch.tensor([[1.0, 0.1], [1.0, -0.1]])


def plan(form, **group):
    return SharingPlan.model_validate({"groups": [{"layers": "1..4", "form": form, **group}]})


def count(form):
    """The exact numbers of BERT with layers 1..4 in `form`."""
    return counted(json.dumps(form))


@cache
def counted(form):
    with torch.device("meta"):
        config = copy.deepcopy(CONFIGS["bert"])
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    ids = torch.ones(1, 8, dtype=torch.long, device="meta")
    return facts(model, share_(copy.deepcopy(model), plan(json.loads(form))), {"input_ids": ids})


@pytest.mark.parametrize(
    "form",
    [
        {"lowrank": {"rank": 48}},
        {"lowrank": {"rank": 96, "diagonal": True}},
        {"basis": {"rank": 48}},
        {"basis": {"rank": 1000}},
        {"atoms": {"count": 4}},
        {"atoms": {"count": 9}},
    ],
    ids=str,
)
@pytest.mark.parametrize("calibrated", [False, True])
def test_enough_of_anything_is_the_unshared_model(form, calibrated):
    model = tiny("bert")
    unshared, tied = logits(model), logits(share_(tiny("bert"), plan("tie")))
    activations = record_activations(model, [inputs(8)]) if calibrated else None
    shared = logits(share_(model, plan(form), activations))
    assert torch.allclose(shared, unshared, atol=1e-6)
    assert not torch.allclose(tied, unshared, atol=1e-3)


@pytest.mark.parametrize(
    ("form", "stored", "effective_ratio"),
    [
        # six matrices a layer, four of 48 x 48 and two of 48 x 96, in 4 of 6 layers
        ({"lowrank": {"rank": 8}}, 4 * 5_376 + 2 * 9_216, 0.366667),
        pytest.param(
            {"lowrank": {"rank": 8, "diagonal": True}},
            39_936 + 4 * 336,
            0.352083,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"lowrank": {"rank": 0, "diagonal": True}},
            18_432 + 4 * 336,
            0.585417,
            marks=pytest.mark.slow,
        ),
        # 4 x 4 numbers in front of o
        pytest.param(
            {"lowrank": {"rank": 8, "heads": True}},
            39_936 + 4 * 16,
            0.365972,
            marks=pytest.mark.slow,
        ),
        ({"basis": {"rank": 24}}, 4 * 5_760 + 2 * 10_368, 0.325),
        ({"atoms": {"count": 2}}, 2 * 18_432 + 4 * 2 * 6, 0.399479),
    ],
    ids=str,
)
def test_stored_parameters(form, stored, effective_ratio):
    found = count(form)
    assert found["stack_parameters"] == 6 * 18_960 - 4 * 18_432 + stored
    assert found["effective_ratio"] == effective_ratio


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_bytes_are_those_of_the_file(form, tmp_path):
    model = share_(tiny("bert"), plan(form))
    expected = saved_bytes(copy.deepcopy(model).to("meta"))
    model.save_pretrained(tmp_path)
    assert os.path.getsize(tmp_path / "model.safetensors") == expected


@pytest.mark.parametrize(
    ("form", "saved"),
    [
        *[(form, 0) for form in FORMS if form != {"basis": {"rank": 24}}],
        # with 24 factors 48 x 48 takes as much as without, 48 x 96 takes 24 x (48 + 96)
        ({"basis": {"rank": 24}}, 4 * 8 * 2 * 2 * (4_608 - 3_456)),
        ({"basis": {"rank": 8}}, 4 * 8 * 2 * (4 * (2_304 - 768) + 2 * (4_608 - 1_152))),
    ],
    ids=str,
)
def test_flops_are_those_of_the_model_that_runs(form, saved):
    assert count("tie")["flops"] - count(form)["flops"] == saved


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_products_apart_give_the_same_answer(form):
    shared = share_(tiny("bert"), plan(form, parts=("attention", "ffn", "biases")))
    together = logits(shared)
    with products_apart(shared):
        assert torch.allclose(logits(shared), together, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3)])
def test_the_error_of_a_residual_is_what_is_left_of_its_spectrum(shape):
    matrix = torch.zeros(shape)
    matrix[0, 1], matrix[1, 0], matrix[2, 2] = 4.0, 3.0, 2.0
    errors = []
    for rank in (1, 2, 3):
        up, down = factors(matrix, rank)
        assert (up.shape, down.shape) == ((shape[0], rank), (rank, shape[1]))
        errors.append((matrix - up @ down).norm().item())
    assert errors == pytest.approx([13**0.5, 2.0, 0.0], abs=1e-5)


def test_residuals_start_from_what_the_bank_lacks():
    layers = tiny("bert").bert.encoder.layer
    shared = share_(tiny("bert"), plan({"lowrank": {"rank": 8}}, init="mean"))
    mean = sum(layers[i].output.dense.weight for i in range(1, 5)) / 4
    residual = layers[3].output.dense.weight - mean
    error = layers[3].output.dense.weight - shared.bert.encoder.layer[3].output.dense.weight
    left, gone = torch.linalg.svdvals(residual.detach()), torch.linalg.svdvals(error.detach())
    assert torch.allclose(gone[:40], left[8:], atol=1e-5)
    assert torch.allclose(gone[40:], torch.zeros(8), atol=1e-5)


def test_a_scale_alone_starts_as_a_tie():
    scaled = share_(tiny("bert"), plan({"lowrank": {"rank": 0, "diagonal": True}}))
    tied = share_(tiny("bert"), plan("tie", units="first"))
    assert torch.equal(logits(scaled), logits(tied))
    assert plan({"lowrank": {"rank": 0}}) == plan("tie")


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_heads_start_unmixed_and_swap_as_their_outputs_do(family):
    form = {"lowrank": {"rank": 0, "heads": True}}
    groups = {"layers": "all", "form": form, "units": "first", "parts": "attention"}
    mixed = share_(tiny(family), SharingPlan.model_validate({"groups": [groups]}))
    tied = share_(tiny(family), SharingPlan.model_validate({"groups": [groups | {"form": "tie"}]}))
    assert torch.equal(logits(mixed), logits(tied))
    (stack,) = find_stacks(mixed).values()
    slot = next(slot for slot in stack.slots if slot.role == "o")
    reader = stack.layers[1].get_submodule(slot.path)
    order = [1, 0, *range(2, slot.units)]
    reader.mixing.data = torch.eye(slot.units)[order]
    width = slot.sections[0] // slot.units
    hidden = torch.arange(2.0 * slot.sections[0]).view(2, -1) / 100
    swapped = torch.cat(
        (hidden[:, width : 2 * width], hidden[:, :width], hidden[:, 2 * width :]), 1
    )
    expected = torch.nn.functional.linear(swapped, reader.entry.weight, reader.bias)
    assert torch.allclose(reader(hidden), expected, atol=1e-5)
    assert torch.allclose(reader.forward_apart(hidden), expected, atol=1e-5)


def test_heads_are_mixed_in_front_of_o_only():
    with pytest.raises(SharetuneError, match="heads are mixed in front of o, but parts are"):
        plan({"lowrank": {"rank": 4, "heads": True}}, parts="ffn")


def test_shared_biases_lie_in_the_bank_of_a_low_rank_group():
    form = {"lowrank": {"rank": 8}}
    shared = share_(tiny("bert"), plan(form, parts=("attention", "ffn", "biases")))
    assert shared.banks[0]["intermediate_dense"].bias.shape == (96,)
    assert shared.bert.encoder.layer[2].intermediate.dense.own_bias is None


def test_the_side_that_is_shared_is_the_residual_stream():
    shared = share_(tiny("bert"), plan({"basis": {"rank": 8}}))
    layer, bank = shared.bert.encoder.layer[1], shared.banks[0]
    assert bank["intermediate_dense"].weight.shape == (8, 48)
    assert layer.intermediate.dense.coefficients.weight.shape == (96, 8)
    assert bank["output_dense"].weight.shape == (48, 8)
    assert layer.output.dense.coefficients.weight.shape == (8, 96)


def test_inputs_decide_which_direction_a_basis_keeps():
    weights = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    for inputs_given, kept in (
        (None, [[0.0, 0.0], [0.0, 2.0]]),
        ([LOUD_FIRST] * 2, [[1.0, 0.0], [0, 0]]),
    ):
        basis, coefficients = shared_input(weights, inputs_given, 1)
        found = torch.cat([own @ basis for own in coefficients])
        assert torch.allclose(found, torch.tensor(kept), atol=1e-6)


def test_each_layers_own_inputs_decide_on_an_output_basis():
    weights = [torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [2.0]])]
    quiet_second = [torch.tensor([[1.0]]), torch.tensor([[0.1]])]
    plain, _ = shared_output(weights, None, 1)
    whitened, (first, second) = shared_output(weights, quiet_second, 1)
    assert plain.abs().flatten().tolist() == [0.0, 1.0]
    assert whitened.abs().flatten().tolist() == [1.0, 0.0]
    assert (first.abs().item(), second.abs().item()) == (1.0, 0.0)


def output_errors(model, shared, recorded):
    """Squared error of the outputs of each kind of matrix in layers 1 to 4 on its inputs."""
    (stack,) = find_stacks(model).values()
    errors = {slot.path: 0.0 for slot in stack.slots}
    for path in errors:
        for i in range(1, 5):
            dense = model.bert.encoder.layer[i].get_submodule(path).weight
            lost = dense - shared.bert.encoder.layer[i].get_submodule(path).weight
            errors[path] += (recorded["layers", i, path] @ lost.T).square().sum().item()
    return errors


@pytest.mark.parametrize("form", [{"basis": {"rank": 16}}, {"lowrank": {"rank": 16}}], ids=str)
def test_a_whitened_start_errs_less_on_real_inputs(form):
    model = tiny("bert")
    recorded = record_activations(model, [inputs(64)])
    plain = output_errors(model, share_(tiny("bert"), plan(form)), recorded)
    whitened = output_errors(model, share_(tiny("bert"), plan(form), recorded), recorded)
    assert len(plain) == 6
    assert all(whitened[path] < 0.5 * plain[path] for path in plain)


@pytest.mark.parametrize("form", [{"basis": {"rank": 16}}, {"lowrank": {"rank": 16}}], ids=str)
def test_the_order_of_units_is_nothing_to_whitened_forms(form):
    recorded = record_activations(tiny("bert"), [inputs(16)])
    one, two = (
        share_(tiny("bert"), plan(form, units=units), recorded) for units in ("first", "importance")
    )
    assert torch.equal(logits(one), logits(two))


def test_inputs_decide_which_layer_an_atom_is_nearest_to():
    # one atom for W_0 = (1, 0) and W_1 = (0, 2): the second, unless only the first column is fed
    weights = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    slot = Slot("fc", ("fc_in",), 0, 1, (1,))
    for seen, kept in ((None, [0.0, 2.0]), ([LOUD_FIRST] * 2, [1.0, 0.0])):
        bank = torch.nn.ModuleDict()
        given = Matrices(slot, weights, [None, None], INITS["mean"], False, False, seen)
        readers = BUILDERS["atoms"](Atoms(count=1), given, bank, "fc")
        found = sum(reader.weight for reader in readers)
        assert torch.allclose(found, torch.tensor([kept]), atol=1e-6)


def test_a_whitened_start_of_atoms_errs_less_over_a_layer():
    model = tiny("bert")
    recorded = record_activations(model, [inputs(64)])
    group = plan({"atoms": {"count": 2}}, units="first")
    plain = output_errors(model, share_(tiny("bert"), group), recorded)
    whitened = output_errors(model, share_(tiny("bert"), group, recorded), recorded)
    assert sum(whitened.values()) < sum(plain.values())


def test_inputs_are_permuted_with_the_units_that_they_enter():
    model = tiny("bert")
    recorded = record_activations(model, [inputs(8)])
    (stack,) = find_stacks(model).values()
    slots = [slot for slot in stack.slots if slot.role in ("fc_in", "fc_out")]
    dense = model.bert.encoder.layer[2].output.dense
    before = dense.weight.detach().clone()
    layers = {i: stack.layers[i] for i in (1, 2)}
    permuted = align_("layers", layers, slots, ORDERS["importance"], [48, 48], recorded)
    assert set(permuted) == {("layers", i, "output.dense") for i in (1, 2)}
    assert not torch.equal(dense.weight, before)
    answers = [permuted["layers", 2, "output.dense"] @ dense.weight.T]
    answers += [recorded["layers", 2, "output.dense"] @ before.T]
    assert torch.allclose(*answers, atol=1e-5)


def test_matched_units_help_atoms():
    lost = []
    for units in ("first", "importance"):
        shared = share_(tiny("bert"), plan({"atoms": {"count": 2}}, units=units))
        lost.append((logits(shared) - logits(tiny("bert"))).square().sum().item())
    assert lost[1] < lost[0]


def test_inputs_that_matrices_have_in_common_are_kept_once():
    recorded = record_activations(tiny("bert"), [inputs(), inputs()], max_tokens=20)
    q, k, v, o = (
        recorded["layers", 2, f"attention.{name}"]
        for name in ("self.query", "self.key", "self.value", "output.dense")
    )
    assert q is k is v
    assert o is not q
    assert q.shape == (20, 48)


def test_queries_and_keys_of_cross_attention_have_inputs_of_their_own():
    config = BartConfig(
        vocab_size=99,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    recorded = record_activations(BartModel(config), [{"input_ids": torch.arange(5, 17)[None]}])
    q, k, v = (recorded["decoder", 0, f"encoder_attn.{name}_proj"] for name in "qkv")
    assert k is v
    assert q is not k


SPACE = Space.model_validate(
    yaml.safe_load(
        """
plan:
  - layers: {within: 0..-1, min: 2}
    form:
      choices:
        - tie
        - lowrank: {rank: {low: 8, high: 64, step: 8}, diagonal: {choices: [false, true]}}
        - basis: {rank: {low: 8, high: 32, log: true}}
        - atoms: {count: {low: 1, high: 3}}
recipe: {steps: 1}
"""
    )
)


def test_drawn_forms_are_built():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    shapes = stack_shapes(tiny("bert"))
    seen = set()
    for _ in range(16):
        drawn = SPACE.suggest(study.ask(), shapes).plan
        seen.add(drawn.groups[0].form.name)
        assert SharingPlan.from_yaml(drawn.to_yaml()) == drawn
        shared = share_(tiny("bert"), drawn)
        answer = logits(shared)
        assert torch.allclose(logits(materialize_(shared)), answer, atol=1e-6)
    assert seen == {"tie", "lowrank", "basis", "atoms"}


def test_forms_are_written_as_short_as_they_are_read():
    for written in ({"lowrank": {"rank": 8}}, {"lowrank": {"rank": 0, "diagonal": True}}, "tie"):
        assert write_form(read_form(written)) == written


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"lowrank": {"rank": -1}}, "lowrank.rank: input should be greater than or equal to 0"),
        ({"basis": {}}, "basis.rank: field required"),
        ({"atoms": {"count": 0}}, "atoms.count: input should be greater than or equal to 1"),
    ],
)
def test_mistakes(form, message):
    with pytest.raises(PlanError, match=message):
        read_form(form)
