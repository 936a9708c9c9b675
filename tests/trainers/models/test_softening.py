"""From soft to hard: the formula, its ends, and what is left after it."""

import pytest
import torch

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.inits import INITS
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers import share_
from sharetune.trainers.models.softening import SCHEDULES, OwnLinear, Untie, harden_, soft_layers
from sharetune.trainers.training.losses import LOSSES
from tests.families import inputs, logits, tiny

OWN, SHARED = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -2.0]])
PLAN = SharingPlan.range(1, 4, 0.5, units="first")
FROM_OWN = [name for name in SCHEDULES if issubclass(SCHEDULES[name], OwnLinear)]


def soft(schedule, plan=PLAN):
    return share_(tiny("bert"), plan, schedule=schedule)


def private(model, index):
    """What layer `index` would have of its own, by name, biases left out."""
    layer = model.bert.encoder.layer[index]
    found = {n.replace(".reader", ""): p for n, p in layer.named_parameters() if p.dim() == 2}
    return {name: p for name, p in found.items() if not name.endswith("own")}


def test_the_seed_formula():
    # theta' = 0.25 * theta + 0.75 * theta'
    blended = SCHEDULES["interpolate"].blend(OWN, SHARED, 0.25)
    assert torch.equal(blended, torch.tensor([[1.5, 1.0]]))


@pytest.mark.parametrize("name", FROM_OWN)
def test_schedules_lead_from_the_own_weights_to_the_banks(name):
    assert torch.equal(SCHEDULES[name].blend(OWN, SHARED, 0.0), OWN)
    assert torch.equal(SCHEDULES[name].blend(OWN, SHARED, 1.0), SHARED)


def test_replacement_happens_with_probability_alpha():
    torch.manual_seed(0)
    drawn = [SCHEDULES["replace"].blend(OWN, SHARED, 0.3) is SHARED for _ in range(2000)]
    assert 0.26 < sum(drawn) / 2000 < 0.34


@pytest.mark.parametrize("name", FROM_OWN)
def test_a_soft_model_starts_as_the_unshared_one_and_ends_as_the_shared_one(name):
    model = soft(name)
    assert len(soft_layers(model)) == 24
    assert torch.equal(logits(model), logits(tiny("bert")))
    harden_(model)
    assert not soft_layers(model)
    shared = share_(tiny("bert"), PLAN)
    assert torch.equal(logits(model), logits(shared))
    assert list(model.state_dict()) == list(shared.state_dict())


def test_the_pull_is_the_mean_square_of_what_separates():
    model = soft("pull")
    layer = soft_layers(model)[0]
    with torch.no_grad():
        for other in soft_layers(model):
            other.own.copy_(other.reader.weight)
        layer.own.add_(0.5)
    assert LOSSES["pull"](model, 2.0)().item() == pytest.approx(0.5)
    harden_(model)
    assert LOSSES["pull"](model, 2.0)().item() == 0.0


def test_own_weights_and_bank_both_learn_while_soft():
    model = soft("interpolate")
    for layer in soft_layers(model):
        layer.alpha = 0.5
    model(**inputs(), labels=torch.tensor([0, 1])).loss.backward()
    assert all(layer.own.grad.abs().sum() > 0 for layer in soft_layers(model))
    assert all(p.grad.abs().sum() > 0 for p in model.banks.parameters())


def test_untying_starts_from_one_matrix_for_all_layers():
    layers = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[3.0, 0.0], [1.0, -8.0]])]
    tied = torch.tensor([[2.0, 1.0], [2.0, -2.0]])
    origins = Untie.origins(layers, INITS["mean"])
    assert len(origins) == 2 and all(torch.equal(origin, tied) for origin in origins)


@pytest.mark.parametrize(
    "form",
    [
        {"bank": {"ratio": 0.5}},
        {"lowrank": {"rank": 8, "diagonal": True}},
        {"basis": {"rank": 48}},
        {"atoms": {"count": 2}},
    ],
    ids=lambda form: next(iter(form)),
)
def test_untying_starts_tied_and_ends_as_the_plan(form):
    rule = {"layers": "1..4", "form": form, "units": "first"}
    model = soft("untie", SharingPlan.model_validate({"groups": [rule]}))
    tied = share_(tiny("bert"), SharingPlan.range(1, 4, 1.0, units="first"))
    assert torch.allclose(logits(model), logits(tied), atol=1e-6)
    with torch.no_grad():
        for parameter in private(model, 1).values():
            parameter.add_(torch.randn_like(parameter))
    learnt = logits(model)
    harden_(model)
    assert not soft_layers(model)
    assert torch.allclose(logits(model), learnt, atol=1e-6)
    assert not torch.allclose(learnt, logits(tied), atol=1e-4)
    plan = share_(tiny("bert"), SharingPlan.model_validate({"groups": [rule]}))
    assert [(n, p.shape) for n, p in model.named_parameters()] == [
        (n, p.shape) for n, p in plan.named_parameters()
    ]


def test_private_weights_learn_apart_once_they_are_untied():
    model, batch = soft("untie"), inputs() | {"labels": torch.tensor([0, 1])}
    model(**batch).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in private(model, 1).values())
    assert all(p.grad is None for i in (2, 3, 4) for p in private(model, i).values())
    harden_(model)
    model.zero_grad()
    model(**batch).loss.backward()
    one, two = private(model, 1), private(model, 2)
    assert len(one) == 6 and all(torch.equal(one[name], two[name]) for name in one)
    assert all(not torch.equal(one[name].grad, two[name].grad) for name in one)


def test_units_that_stay_private_are_matched_so_that_they_can_be_tied_first():
    # the second layer is the first with other neurons first: tied, both are as they were
    model = tiny("bert")
    first, second = model.bert.encoder.layer[1:3]
    second.load_state_dict(first.state_dict())
    order = torch.arange(96).roll(17)
    with torch.no_grad():
        for tensor in (second.intermediate.dense.weight, second.intermediate.dense.bias):
            tensor.copy_(tensor[order])
        second.output.dense.weight.copy_(second.output.dense.weight[:, order])
    unshared = logits(model)
    share_(model, SharingPlan.range(1, 2, 0.5, parts="ffn"), schedule="untie")
    assert torch.allclose(logits(model), unshared, atol=1e-6)


def test_a_schedule_without_sharing_is_no_schedule():
    stacks = {"layers": StackShape(depth=6, heads=12, neurons=1536)}
    recipe = Recipe(soften="pull", pull=1.0, soften_until=0.2)
    assert Candidate(recipe=recipe).bound(stacks) == Candidate().bound(stacks)
    shared = Candidate(plan=PLAN, recipe=recipe).bound(stacks)
    assert shared.recipe.soften == "pull"


def test_untying_what_has_nothing_private_is_no_schedule():
    stacks = {"layers": StackShape(depth=6, heads=12, neurons=1536)}
    recipe = Recipe(soften="untie", soften_until=0.2, pull=1.0)
    tie = SharingPlan.range(1, 4, 1.0)
    assert Candidate(plan=tie, recipe=recipe).bound(stacks) == Candidate(plan=tie).bound(stacks)
    bank = Candidate(plan=PLAN, recipe=recipe).bound(stacks).recipe
    assert (bank.soften, bank.soften_until, bank.pull) == ("untie", 0.2, 0.0)
