"""Layers of several kinds in one list: a stack of each, shared, dropped, saved, with a cache."""

import copy
import pickle
import sys

import pytest
import torch

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import ModelError, PlanError
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers import load_shared, materialize_, share_
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.sizes import facts
from sharetune.trainers.models.arrangement import arrangements
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.sample_inputs import samples
from sharetune.trainers.models.structure import find_stacks
from sharetune.trainers.scoring.scorer import Scorer
from sharetune.trainers.training.parameter_groups import distances, top_parameters
from tests.paths import ROOT
from tests.trainers.models.comparing import close, written

sys.path.insert(0, str(ROOT / "benchmarks"))
from families import _pass_by
from tiny_models import answer, build

STACKS = {
    "deepseek_v3": {"layers[dense]": (0, 1), "layers[moe]": (2, 3, 4)},
    "gemma3n_text": {"layers[own]": (0, 1, 2, 3, 4), "layers[reuse]": (5, 6, 7, 8, 9)},
    "jamba": {
        "layers[mamba+dense]": (0, 2, 4, 6),
        "layers[mamba+moe]": (1, 5),
        "layers[attention+moe]": (3, 7),
    },
    "llama4_text": {"layers[dense]": (0, 2, 4), "layers[moe]": (1, 3, 5)},
    "qwen3_moe": {"layers[dense]": (0, 2), "layers[moe]": (1, 3, 4)},
    "qwen3_next": {"layers[linear]": (0, 1, 2, 4, 5, 6), "layers[attention]": (3, 7)},
}
KEPT = {("gemma3n_text", "layers[own]"): {3, 4}}  # others read their keys and values
SHARED = [
    (f, s) for f in STACKS for s in STACKS[f] if s not in ("layers[mamba+moe]", "layers[linear]")
]


def plan(stack, form, layers="all", **rule):
    group = {"stack": stack, "layers": layers, "form": form, **rule}
    return SharingPlan.model_validate({"groups": [group]})


@pytest.mark.parametrize("family", STACKS)
def test_each_kind_of_layer_is_a_stack(family):
    assert {n: s.places for n, s in find_stacks(build(family)).items()} == STACKS[family]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), SHARED)
def test_a_tied_stack_computes_what_copies_of_its_first_layer_do(family, name, tmp_path):
    model, copied = build(family), build(family)
    first, *others = find_stacks(copied)[name].layers
    for slot in find_stacks(copied)[name].slots:
        for layer in others:
            matrix, source = layer.get_submodule(slot.path), first.get_submodule(slot.path)
            matrix.weight.data.copy_(source.weight.data)
    share_(model, plan(name, "tie", init="first", units="first"))
    assert close(answer(model), answer(copied))
    assert not close(answer(model), answer(build(family)))
    assert written(model, use_cache=True) == written(model, use_cache=False)
    assert {n: s.places for n, s in find_stacks(model).items()} == STACKS[family]
    model.save_pretrained(tmp_path)
    assert close(answer(load_shared(tmp_path)), answer(model))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), SHARED)
def test_half_a_bank_is_loaded_as_it_was_saved(family, name, tmp_path):
    model = build(family)
    seen = record_activations(model, samples(model)[:1])
    share_(model, plan(name, {"bank": {"ratio": 0.5}}), seen)
    model.save_pretrained(tmp_path)
    loaded = load_shared(tmp_path)
    assert close(answer(loaded), answer(model))
    assert written(loaded, use_cache=True) == written(model, use_cache=False)
    before = answer(model)
    assert close(answer(materialize_(model)), before)


@pytest.mark.slow
@pytest.mark.parametrize("family", STACKS)
def test_a_dropped_layer_is_passed_by(family, tmp_path):
    for name, places in STACKS[family].items():
        for layer in {0, len(places) - 1} - KEPT.get((family, name), set()):
            model, whole = build(family), build(family)
            find_stacks(whole)[name].layers[layer].register_forward_hook(_pass_by, with_kwargs=True)
            share_(model, plan(name, "drop", [layer]))
            assert close(answer(model), answer(whole))
            assert written(model, use_cache=True) == written(model, use_cache=False)
            model.save_pretrained(tmp_path / f"{name}{layer}")
            loaded = load_shared(tmp_path / f"{name}{layer}")
            assert close(answer(loaded), answer(model))
            assert written(loaded, use_cache=True) == written(model, use_cache=False)


SETTINGS = {
    ("deepseek_v3", "layers[dense]"): {"first_k_dense_replace": 1, "num_hidden_layers": 4},
    ("deepseek_v3", "layers[moe]"): {"first_k_dense_replace": 2, "num_hidden_layers": 4},
    ("llama4_text", "layers[dense]"): {"moe_layers": [1, 2, 4], "no_rope_layers": [1, 1, 0, 1, 1]},
    ("llama4_text", "layers[moe]"): {"moe_layers": [1, 4], "no_rope_layers": [1, 1, 1, 1, 1]},
    ("qwen3_moe", "layers[dense]"): {"mlp_only_layers": [0], "num_hidden_layers": 4},
    ("qwen3_moe", "layers[moe]"): {"mlp_only_layers": [0, 2], "num_hidden_layers": 4},
    ("qwen3_next", "layers[attention]"): {
        "layer_types": [*["linear_attention"] * 3, "full_attention", *["linear_attention"] * 3]
    },
    ("jamba", "layers[mamba+dense]"): {
        "layers_block_type": [*["mamba"] * 2, "attention", *["mamba"] * 3, "attention"],
        "layer_types": [
            ("linear_attention", "full_attention")[place in (2, 6)] for place in range(7)
        ],
        "layers_num_experts": [1, 4, 4, 1, 4, 1, 4],
    },
}


@pytest.mark.parametrize(("family", "name"), SETTINGS)
def test_the_configuration_says_of_each_layer_what_it_said(family, name):
    model = share_(build(family).to("meta"), plan(name, "drop", [1]))
    expected = SETTINGS[family, name]
    for config in (
        model.config,
        copy.deepcopy(model.config),
        pickle.loads(pickle.dumps(model.config)),
    ):
        assert {setting: getattr(config, setting) for setting in expected} == expected


def test_another_configuration_of_the_class_goes_by_its_rule():
    share_(build("jamba").to("meta"), plan("layers[mamba+dense]", "drop", [1]))
    assert build("jamba").config.layers_block_type == [*["mamba"] * 3, "attention"] * 2


def test_a_model_whose_rule_no_longer_holds_has_no_ordinary_form():
    model = share_(build("jamba"), plan("layers[mamba+dense]", "drop", [1]))
    with pytest.raises(ModelError, match="there is no ordinary model of that depth"):
        materialize_(model)


@pytest.mark.parametrize("form", ["drop", "tie"])
def test_an_ordinary_model_is_built_where_the_configuration_can_say_it(form, tmp_path):
    model = build("qwen3_moe")
    share_(model, plan("layers[moe]", form, [1] if form == "drop" else "all"))
    before = answer(model)
    materialize_(model).save_pretrained(tmp_path)
    assert close(answer(type(model).from_pretrained(tmp_path).eval()), before)


@pytest.mark.parametrize(
    ("form", "rule", "message"),
    [
        (
            "tie",
            {"times": 2, "assign": "each"},
            r"layers 0..1 of stack 'layers\[dense\]' cannot be run as a block, because they are "
            r"layers 0, 2 of model.layers, and others run between them",
        ),
        ("merge", {"init": "first"}, "layers 0..1 .* cannot be taken together, because they are"),
    ],
)
def test_layers_that_are_apart_are_no_block(form, rule, message):
    model = build("llama4_text")
    before = answer(model)
    with pytest.raises(PlanError, match=message):
        share_(model, plan("layers[dense]", form, [0, 1], **rule))
    assert torch.equal(answer(model), before)


@pytest.mark.slow
def test_layers_repeated_in_place_run_among_the_others():
    model, copies = build("llama4_text"), build("llama4_text")
    rule = {"times": 2, "assign": "each", "order": "layer"}
    share_(model, plan("layers[dense]", "tie", [1, 2], **rule))
    share_(copies, plan("layers[dense]", "tie", [1, 2], **rule))
    stack = find_stacks(model)["layers[dense]"]
    assert (stack.places, stack.length) == ((0, 2, 3, 5, 6), 8)
    assert model.config.moe_layers == [1, 4, 7]
    assert close(answer(materialize_(copies)), answer(model))
    assert written(model, use_cache=True) == written(model, use_cache=False)


def test_repeated_layers_follow_their_block():
    stacks = find_stacks(build("qwen3_next"))
    orders = {"layers[linear]": (0, 2, 3, 4, 3, 4, 5), "layers[attention]": (0, 1)}
    (running,) = arrangements(stacks, orders)
    assert running.order == (0, 2, 3, 4, 5, 4, 5, 6, 7)
    assert running.places("layers[attention]") == (2, 8)


def test_layers_whose_keys_and_values_others_read_stay():
    with pytest.raises(
        PlanError, match="layer 4 of model.layers cannot be dropped, because others"
    ):
        share_(build("gemma3n_text"), plan("layers[own]", "drop", [4]))


def test_layers_of_gemma_3n_are_not_repeated():
    with pytest.raises(
        PlanError, match="cannot run 2 times, because altup.correct_output_scale lie"
    ):
        share_(build("gemma3n_text"), plan("layers[own]", "tie", [1], times=2, assign="each"))


def test_layers_stay_where_what_is_made_for_each_is_not_known():
    with pytest.raises(
        PlanError, match="neither dropped nor repeated, because each has an input by"
    ):
        share_(build("embedding_gemma2_text"), plan("layers", "drop", [1]))


def test_an_ordinary_gemma_3n_has_the_inputs_of_the_layers_that_are_left(tmp_path):
    model = build("gemma3n_text")
    groups = [
        *plan("layers[own]", "drop", [1]).groups,
        *plan("layers[reuse]", "drop", [0, 3]).groups,
    ]
    share_(model, SharingPlan(groups=groups))
    before = answer(model)
    assert (model.config.num_hidden_layers, model.config.num_kv_shared_layers) == (7, 3)
    assert model.model.embed_tokens_per_layer.weight.shape == (99, 7 * 8)
    materialize_(model).save_pretrained(tmp_path)
    assert close(answer(type(model).from_pretrained(tmp_path).eval()), before)


def test_a_plan_without_a_stack_is_of_the_only_list_of_one_kind():
    stacks = {"layers": StackShape(4, 4, 64), "language_model[moe]": StackShape(6, 4, 64)}
    assert {group.stack for group in SharingPlan.range(0, 3, 1.0).bound(stacks).groups} == {
        "layers"
    }
    with pytest.raises(PlanError, match="no stack is named"):
        SharingPlan.range(0, 1, 1.0).bound({"a[x]": stacks["layers"], "a[y]": stacks["layers"]})


def test_depth_counts_all_layers_of_the_list():
    model = build("qwen3_moe")
    found = distances(model)
    assert found["model.layers.1.self_attn.q_proj.weight"] == 4.0
    assert found["model.embed_tokens.weight"] == 6.0
    assert found["lm_head.weight"] == 0.0
    named = {name.split(".")[2] for name in top_parameters(model, 1)}
    assert named == {"2", "4"}


@pytest.mark.parametrize(
    "family", ["qwen3_moe", pytest.param("gemma3n_text", marks=pytest.mark.slow)]
)
def test_a_distance_is_that_of_the_whole_model(family):
    model = build(family)
    batch = {"input_ids": samples(model)[0]["input_ids"]}
    scorer = Scorer(model, [batch], activations={})
    for name in STACKS[family]:
        one = plan(name, "tie", [0, 1], init="first", parts="ffn")
        one = one if family == "gemma3n_text" else plan(name, "drop", [1])
        shared = share_(copy.deepcopy(model), one)
        with torch.no_grad():
            wanted, new = (m(**batch).logits.log_softmax(-1) for m in (model, shared))
        expected = float((wanted.exp() * (wanted - new)).sum(-1).mean())
        assert scorer.score(one).distance == pytest.approx(expected, rel=1e-3)


def test_narrowed_layers_of_one_kind_are_counted_as_built(tmp_path):
    model, real = build("qwen3_moe").to("meta"), build("qwen3_moe")
    inputs = {name: value.to("meta") for name, value in samples(model)[0].items()}
    groups = [
        *plan("layers[dense]", {"narrow": {"keep": 0.5}}).groups,
        *plan("layers[moe]", {"narrow": {"keep": 0.75}}, [0, 2], parts="attention").groups,
        *plan("layers[moe]", "drop", [1]).groups,
    ]
    one = SharingPlan(groups=groups)
    built = share_(copy.deepcopy(model), one)
    assert Counting(model, inputs).facts(one) == facts(model, built, inputs)
    share_(real, one).save_pretrained(tmp_path)
    assert close(answer(load_shared(tmp_path)), answer(real))
    assert written(real, use_cache=True) == written(real, use_cache=False)
