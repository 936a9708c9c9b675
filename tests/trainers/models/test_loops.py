"""More positions than layers: the same function as running the layers again, stored once."""

import copy

import optuna
import pytest
import torch
import yaml
from torch import nn
from transformers import AutoModelForSequenceClassification

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import PlanError, SharetuneError
from sharetune.spaces.layer_map import layer_map
from sharetune.spaces.layer_text import layers_as_text
from sharetune.spaces.space import Space
from sharetune.trainers import load_shared, materialize_, share_
from sharetune.trainers.exports.base import export
from sharetune.trainers.measuring.sizes import facts, parameters
from sharetune.trainers.models.structure import find_stacks, stack_shapes
from tests.families import CONFIGS, inputs, labels_of, logits, tiny

EACH = {"assign": "each", "times": 2}


def plan(layers="1..2", **group):
    return SharingPlan.model_validate({"groups": [{"layers": layers, **group}]})


def run_in(order):
    """A tiny BERT whose very layers stand at several positions."""
    model = tiny("bert")
    layers = model.bert.encoder.layer
    model.bert.encoder.layer = nn.ModuleList(layers[i] for i in order)
    return logits(model)


@pytest.mark.parametrize(
    ("group", "order"),
    [
        ({"layers": "1..2", **EACH}, (0, 1, 2, 1, 2, 3, 4, 5)),
        ({"layers": "1..2", **EACH, "order": "layer"}, (0, 1, 1, 2, 2, 3, 4, 5)),
        ({"layers": [1, 4], **EACH, "order": "layer"}, (0, 1, 1, 2, 3, 4, 4, 5)),
        ({"layers": [5], "times": 3}, (0, 1, 2, 3, 4, 5, 5, 5)),
        ({"layers": "all", **EACH}, (0, 1, 2, 3, 4, 5) * 2),
    ],
    ids=str,
)
def test_positions_run_the_very_layers_again(group, order, tmp_path):
    model = share_(tiny("bert"), plan(**group))
    assert model.sharing.orders == {"layers": order}
    assert model.config.num_hidden_layers == len(order)
    assert torch.equal(logits(model), run_in(order))
    assert parameters([model]) == parameters([tiny("bert")])
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_shared(tmp_path)), logits(model))


def test_a_dropped_layer_and_a_loop_in_one_plan():
    groups = [{"layers": [0], "form": "drop"}, {"layers": "2..3", **EACH}]
    model = share_(tiny("bert"), SharingPlan.model_validate({"groups": groups}))
    assert torch.equal(logits(model), run_in((1, 2, 3, 2, 3, 4, 5)))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_position_has_a_cache_of_its_own(family):
    model = share_(tiny(family), plan(**EACH))
    (stack,) = find_stacks(model).values()
    found = [
        {m.layer_idx for m in layer.modules() if hasattr(m, "layer_idx")} for layer in stack.layers
    ]
    assert found == [{0}, {1}, {2}, {3}, {4}, {5}]


def count(group):
    with torch.device("meta"):
        config = copy.deepcopy(CONFIGS["bert"])
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    ids = {"input_ids": torch.ones(1, 8, dtype=torch.long, device="meta")}
    return facts(model, share_(copy.deepcopy(model), plan(**group)), ids)


@pytest.mark.slow
def test_flops_count_positions_and_parameters_do_not():
    once, twice = count({"times": 1}), count({**EACH})
    assert once["stack_parameters"] == 6 * 18_960 - 18_432
    assert twice["stack_parameters"] == 6 * 18_960
    assert twice["effective_ratio"] == 0.0
    # two more layers of matrices, 2 x 8 tokens x 18,432, and attention, 2 x 2 x 8 x 8 x 48
    assert twice["flops"] - once["flops"] == 2 * (294_912 + 12_288)


def test_low_rank_relaxes_each_position():
    group = {**EACH, "form": {"lowrank": {"rank": 4}}}
    model = share_(tiny("bert"), plan(**group))
    assert torch.allclose(logits(model), run_in((0, 1, 2, 1, 2, 3, 4, 5)), atol=1e-6)
    # 4 x (48 + 48) for four matrices and 4 x (48 + 96) for two, at each of four positions, and
    # the biases, 4 x 48 + 96 + 48, of the two that are new
    private = 4 * (4 * 384 + 2 * 576) + 2 * 336
    assert parameters([model]) - parameters([tiny("bert")]) == private
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(**inputs(), labels=labels_of(model)).loss.backward()
        optimizer.step()
    first, second = (model.bert.encoder.layer[i].output.dense for i in (1, 3))
    assert not torch.equal(first.weight, second.weight)
    assert first.entry.weight is second.entry.weight


def test_a_scale_starts_as_the_plain_loop():
    group = {**EACH, "form": {"lowrank": {"rank": 0, "diagonal": True}}}
    model = share_(tiny("bert"), plan(**group))
    assert torch.equal(logits(model), run_in((0, 1, 2, 1, 2, 3, 4, 5)))


def test_tied_layers_and_their_norms_run_again():
    group = {"times": 2, "parts": ["attention", "ffn", "norms", "biases"]}
    model = share_(tiny("bert"), plan(**group))
    assert parameters([tiny("bert")]) - parameters([model]) == 18_960
    assert torch.allclose(logits(materialize_(model)), logits(model), atol=1e-6)


class Seen(torch.nn.Module):
    """An activation that counts its calls in a buffer that is saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, hidden):
        self.count += 1
        return hidden


def test_a_saved_buffer_in_a_module_without_parameters_is_stored_once():
    model = tiny("bert")
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = Seen()
    model = share_(model, plan(**EACH))
    logits(model)
    counts = {name: int(t) for name, t in model.state_dict().items() if name.endswith("count")}
    assert list(counts.values()) == [1, 2, 2, 1, 1, 1]


def test_materialised_positions_are_layers(tmp_path):
    model = share_(tiny("bert"), plan(**EACH))
    export(model, tmp_path / "dense", "dense")
    dense = AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense").eval()
    assert dense.config.num_hidden_layers == 8
    assert torch.equal(logits(dense), logits(model))
    assert parameters([dense]) - parameters([tiny("bert")]) == 2 * 18_960


def test_albert_runs_a_loop_over_all_layers_without_storing_them_again(tmp_path):
    model = share_(tiny("bert"), plan("all", **EACH))
    assert export(model, tmp_path / "albert", "albert").note == ""


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({**EACH, "form": "tie", "parts": "ffn"}, {**EACH, "init": "last"}),
        ({**EACH, "form": {"bank": {"ratio": 0}}}, {**EACH}),
        ({**EACH, "form": {"lowrank": {"rank": 0}}}, {**EACH}),
        ({"times": 2, "assign": {"cycle": 2}}, {**EACH}),
        ({"times": 2, "assign": {"sequence": 1}}, {"times": 2}),
        ({"times": 1, "assign": "each"}, {"layers": [1]}),
        ({**EACH, "form": {"lowrank": {"rank": 4}}, "init": "last"},) * 2,
    ],
)
def test_plans_of_the_same_model_are_equal(one, two):
    assert plan(**one) == plan(**two)
    assert SharingPlan.from_yaml(plan(**one).to_yaml()) == plan(**one)


def test_layers_repeated_in_place_are_loops_of_their_own():
    apart = [{"layers": [1], "times": 2}, {"layers": [2], "times": 2}]
    assert plan(**EACH, order="layer") == SharingPlan.model_validate({"groups": apart})
    assert plan(**EACH, order="layer") != plan(**EACH)


def test_a_loop_of_one_part_and_a_form_for_another():
    residual = {"form": {"lowrank": {"rank": 4}}, "parts": "ffn"}
    groups = [
        {"layers": "1..2", **EACH, "parts": "attention"},
        {"layers": "1..2", **EACH, **residual},
    ]
    both = SharingPlan.model_validate({"groups": groups})
    assert both == plan(**EACH, **residual)
    assert str(both) == "1..2 x2 lowrank 4 ffn from mean"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"layers": [1, 3], **EACH}], "a block that runs 2 times must be of adjacent layers"),
        ([{"layers": [1, -1], **EACH}], "of adjacent layers, but got 1, 5"),
        ([{"layers": [1], "form": "drop", "times": 2}], "a drop removes cannot run 2 times"),
        (
            [{"layers": "1..2", **EACH, "parts": "ffn"}, {"layers": "1..2", "parts": "attention"}],
            "layers 1..2 run 2 times in one group and 1 times in another",
        ),
        (
            [
                {"layers": "1..2", **EACH, "parts": "ffn"},
                {"layers": "1..2", **EACH, "parts": "attention", "order": "layer"},
            ],
            "and 2 times in another, in another order",
        ),
    ],
)
def test_mistakes(groups, message):
    with pytest.raises(SharetuneError, match=message):
        share_(tiny("bert"), SharingPlan.model_validate({"groups": groups}))


@pytest.mark.parametrize(
    ("family", "stack", "layers", "message"),
    [
        ("t5", "encoder", "all", "only one of them has layer.0.SelfAttention.relative_attention_b"),
        ("modernbert", "layers", "0..1", "only one of them has attn_norm.weight"),
        ("swin", "stage0", "all", "only one of them has shift_size=0"),
    ],
)
def test_layers_that_run_once_only(family, stack, layers, message):
    with pytest.raises(PlanError, match=message):
        share_(tiny(family), plan(layers, stack=stack, **EACH))


def test_a_tensor_without_a_module_of_its_own():
    model = tiny("bert")
    for layer in model.bert.encoder.layer:
        layer.attention.gain = nn.Parameter(torch.ones(1))
    with pytest.raises(PlanError, match="because attention.gain lies in no module of its own"):
        share_(model, plan(**EACH))


SPACE = Space.model_validate(
    yaml.safe_load(
        """
plan:
  - layers: {within: 1..-2, min: 2}
    assign: {choices: [one, each]}
    times: {low: 1, high: 3}
    order: {choices: [block, layer]}
    form: {choices: [tie, lowrank: {rank: 4}, reuse: {what: {choices: [kv, scores]}}]}
recipe: {steps: 1}
"""
    )
)


@pytest.mark.slow
def test_loops_are_searched():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    shapes = stack_shapes(tiny("bert"))
    seen = set()
    for _ in range(12):
        drawn = SPACE.suggest(study.ask(), shapes).plan
        seen |= {(group.form.name, group.times) for group in drawn.groups}
        assert SharingPlan.from_yaml(drawn.to_yaml()) == drawn
        shared = share_(tiny("bert"), drawn)
        assert torch.allclose(logits(materialize_(shared)), logits(shared), atol=1e-6)
    assert {name for name, _ in seen} == {"tie", "lowrank", "reuse"}
    assert {times for _, times in seen} == {1, 2, 3}


def test_a_private_top_layer_leaves_the_loop():
    owners = {"assign": {"owners": [0, 1, 0, 1]}, "times": 2}
    shapes = stack_shapes(tiny("bert"))
    (group,) = plan("2..5", **owners).keeping_top(1, shapes).groups
    assert (group.layers, group.assign.argument, group.times) == ((2, 3, 4), (0, 1, 0), 2)


def test_drawings_say_how_often_a_layer_runs():
    bound = plan(**EACH).bound(stack_shapes(tiny("bert")))
    lines = layers_as_text(bound, {"layers": 6}).split("\n")
    assert [line.endswith("runs 2 times") for line in lines] == [0, 1, 1, 0, 0, 0]
    tied = plan("1..2", times=2, assign={"owners": [0, 0]}, stack="layers")
    assert [layer.ffn[0].bank for layer in layer_map(tied, {"layers": 4}) if layer.ffn] == [
        "A",
        "A",
    ]
