"""From soft to hard: the formula, its ends, and what is left after it."""

import pytest
import torch

from spaces import Candidate, Recipe, SharingPlan
from spaces.plan import StackShape
from tests.families import inputs, logits, tiny
from trainers import share_
from trainers.losses import LOSSES
from trainers.schedules import SCHEDULES, harden_, soft_layers

OWN, SHARED = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -2.0]])
PLAN = SharingPlan.range(1, 4, 0.5, units="first")


def soft(schedule):
    return share_(tiny("bert"), PLAN, schedule=schedule)


def test_the_seed_formula():
    # theta' = 0.25 * theta + 0.75 * theta'
    blended = SCHEDULES["interpolate"](OWN, SHARED, 0.25)
    assert torch.equal(blended, torch.tensor([[1.5, 1.0]]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_lead_from_the_own_weights_to_the_banks(name):
    assert torch.equal(SCHEDULES[name](OWN, SHARED, 0.0), OWN)
    assert torch.equal(SCHEDULES[name](OWN, SHARED, 1.0), SHARED)


def test_replacement_happens_with_probability_alpha():
    torch.manual_seed(0)
    drawn = [SCHEDULES["replace"](OWN, SHARED, 0.3) is SHARED for _ in range(2000)]
    assert 0.26 < sum(drawn) / 2000 < 0.34


@pytest.mark.parametrize("name", SCHEDULES)
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


def test_a_schedule_without_sharing_is_no_schedule():
    stacks = {"layers": StackShape(depth=6, heads=12, neurons=1536)}
    recipe = Recipe(soften="pull", pull=1.0, soften_until=0.2)
    assert Candidate(recipe=recipe).bound(stacks) == Candidate().bound(stacks)
    shared = Candidate(plan=PLAN, recipe=recipe).bound(stacks)
    assert shared.recipe.soften == "pull"
