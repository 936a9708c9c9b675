"""New weights of a group learn, alone, to do what they replace."""

import sys

import pytest
import torch

from sharetune.spaces import SharingPlan
from sharetune.spaces.local_start import LocalStart
from sharetune.trainers.scoring.local_distillation import (
    distil_locally,
    start_from_,
)
from sharetune.trainers.scoring.scorer import Scorer
from tests.families import tiny
from tests.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from tiny_models import build

IDS = torch.randint(3, 90, (16, 2, 12), generator=torch.Generator().manual_seed(0))


def scorer_of(family):
    given = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in IDS]
    return Scorer(tiny(family), given)


def distance(scorer, plan, taught):
    """How far the plan is, once its groups have started from what they learnt."""
    shared = scorer.shared

    def started(bound):
        model, first = shared(bound)
        start_from_(model, taught)
        return model, first

    scorer.shared = started
    try:
        return scorer.score(plan).distance
    finally:
        scorer.shared = shared


@pytest.mark.slow
def test_tied_and_banked_ffns_come_nearer():
    for family in ("bert", "llama"):
        scorer = scorer_of(family)
        for form in ("tie", "{bank: {ratio: 0.5}}"):
            text = f"groups: [{{layers: 1..2, parts: [ffn], form: {form}}}]"
            shapes = {name: stack.shape for name, stack in scorer.stacks.items()}
            plan = SharingPlan.from_yaml(text).bound(shapes)
            recipe = LocalStart(local_steps=60, learning_rate=3e-3)
            taught = distil_locally(scorer, plan.groups, scorer.batches, recipe)
            before = scorer.score(plan).distance
            assert distance(scorer, plan, taught) < 0.8 * before


def test_groups_learn_alone_and_come_together_in_any_plan():
    scorer = scorer_of("llama")
    shapes = {name: stack.shape for name, stack in scorer.stacks.items()}
    one = SharingPlan.from_yaml("groups: [{layers: 1..2, parts: [ffn], form: tie}]").bound(shapes)
    both = SharingPlan.from_yaml(
        "groups: [{layers: [0], form: drop}, {layers: 1..2, parts: [ffn], form: tie}]"
    ).bound(shapes)
    recipe = LocalStart(local_steps=10)
    alone = distil_locally(scorer, one.groups, scorer.batches, recipe)
    together = distil_locally(scorer, both.groups, scorer.batches, recipe)
    (group,) = one.groups
    assert set(together) == {group}  # a dropped layer has nothing to learn
    assert all(torch.equal(alone[group][name], together[group][name]) for name in alone[group])
    shared, _ = scorer.shared(both)
    start_from_(shared, together)
    bank = dict(shared.banks.named_parameters())
    learnt = {name: values for name, values in alone[group].items() if name.startswith("bank.")}
    assert learnt
    for name, values in learnt.items():
        path = f"{len(shared.banks) - 1}.{name.split('.', 2)[2]}"
        assert torch.equal(bank[path], values)


def test_the_unshared_model_learns_nothing():
    scorer = scorer_of("llama")
    before = {name: values.clone() for name, values in scorer.model.state_dict().items()}
    shapes = {name: stack.shape for name, stack in scorer.stacks.items()}
    plan = SharingPlan.from_yaml("groups: [{layers: 1..2, form: {bank: {ratio: 0.5}}}]")
    distil_locally(scorer, plan.bound(shapes).groups, scorer.batches, LocalStart(local_steps=3))
    after = scorer.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.grad is not None for p in scorer.model.parameters())


def test_a_narrowed_ffn_and_a_merged_layer_come_nearer():
    scorer = scorer_of("llama")
    shapes = {name: stack.shape for name, stack in scorer.stacks.items()}
    for group in (
        "{layers: [1], parts: [ffn], form: {narrow: {keep: 0.5}}}",
        "{layers: 1..2, form: merge, init: first}",
    ):
        plan = SharingPlan.from_yaml(f"groups: [{group}]").bound(shapes)
        recipe = LocalStart(local_steps=60, learning_rate=3e-3)
        taught = distil_locally(scorer, plan.groups, scorer.batches, recipe)
        assert distance(scorer, plan, taught) < 0.8 * scorer.score(plan).distance


def test_experts_that_stay_learn_with_their_router():
    given = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in IDS[:4]]
    scorer = Scorer(build("mixtral"), given)
    text = "groups: [{layers: [1], parts: experts, form: {narrow: {keep: 0.5}}}]"
    plan = SharingPlan.from_yaml(text).bound({n: s.shape for n, s in scorer.stacks.items()})
    recipe = LocalStart(local_steps=20, learning_rate=3e-3)
    taught = distil_locally(scorer, plan.groups, scorer.batches, recipe)
    assert sorted(taught[plan.groups[0]]) == [
        "layer.1.mlp.experts.down_proj",
        "layer.1.mlp.experts.gate_up_proj",
        "layer.1.mlp.gate.weight",
    ]
    assert 0 < distance(scorer, plan, taught) < scorer.score(plan).distance


@pytest.mark.parametrize(
    ("other", "changed"),
    [
        ({"layers": [1, 2], "parts": "attention", "assign": "each", "times": 2}, True),
        ({"layers": [0, 1], "parts": "experts", "init": "first"}, False),
    ],
)
def test_narrowed_experts_that_run_again_start_from_it_and_shared_ones_do_not(other, changed):
    given = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in IDS[:1]]
    scorer = Scorer(build("mixtral"), given)
    narrow = {"layers": [0, 1, 2], "parts": "experts", "form": {"narrow": {"keep": 0.5}}}
    plan = SharingPlan.model_validate({"groups": [narrow, other]})
    plan = plan.bound({n: s.shape for n, s in scorer.stacks.items()})
    recipe = LocalStart(local_steps=2, learning_rate=3e-3)
    taught = distil_locally(scorer, plan.groups, scorer.batches, recipe)
    model, _ = scorer.shared(plan)
    before = model.model.layers[1].mlp.gate.weight.clone()
    start_from_(model, taught)
    assert torch.equal(model.model.layers[1].mlp.gate.weight, before) != changed
