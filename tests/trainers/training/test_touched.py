"""`trains: shared` trains only the weights that a plan has made or changed."""

from dataclasses import replace

import pytest
import torch

from sharetune.spaces import SharingPlan
from sharetune.spaces.forms import FORMS
from sharetune.trainers import load_shared
from sharetune.trainers.models.sharing import share_
from sharetune.trainers.models.structure import stack_shapes
from sharetune.trainers.training.touched import known, untouched
from tests.families import tiny
from tests.trainers.conftest import candidate, evaluated, saved
from tests.trainers.models.test_contract import groups_of, nearness


@pytest.mark.parametrize("form", FORMS)
def test_what_a_form_leaves_is_untouched_and_all_else_is_not(form):
    model = tiny("llama")
    shapes = {
        name: replace(shape, similarity=nearness(shape.depth))
        for name, shape in stack_shapes(model).items()
    }
    plan = SharingPlan.model_validate({"groups": groups_of(shapes, ("llama", form, "one"))})
    kept = {id(p): (p, p.detach().clone()) for p in model.parameters()}
    before = known(model)
    share_(model, plan.bound(shapes))
    same = {
        name
        for name, p in model.named_parameters()
        if id(p) in kept and torch.equal(p, kept[id(p)][1])
    }
    found = {id(p) for p in untouched(model, before)}
    assert {name for name, p in model.named_parameters() if id(p) in found} == same
    assert "model.embed_tokens.weight" in same
    assert form == "drop" or len(same) < len(list(model.parameters()))


@pytest.mark.slow
def test_the_shared_layers_and_the_head_are_trained_alone(evaluator, tmp_path):
    plan = SharingPlan.range(1, 2, 0.5)
    wanted = candidate(evaluator, plan, trains="shared", steps=8)
    found = evaluated(evaluator, wanted, tmp_path)
    assert len(found.curve) == 8
    start = dict(share_(evaluator.task.load(), wanted.plan).named_parameters())
    moved = {
        name
        for name, p in load_shared(saved(tmp_path)).named_parameters()
        if not torch.equal(p, start[name]) and not name.startswith("classifier")
    }
    layers = ("bert.encoder.layer.1.", "bert.encoder.layer.2.", "banks.")
    assert moved
    assert all(name.startswith(layers) for name in moved), moved
    assert not [name for name in moved if "LayerNorm" in name]
    everything = evaluated(evaluator, candidate(evaluator, plan, steps=8), tmp_path / "all")
    assert everything.curve != found.curve


@pytest.mark.slow
def test_a_model_of_which_nothing_is_trained_is_measured_as_it_is(evaluator, tmp_path, monkeypatch):
    """An unshared model whose head comes with its checkpoint."""
    where = "sharetune.trainers.training.adapters.untouched"
    monkeypatch.setattr(where, lambda model, before: list(model.parameters()))
    same = candidate(evaluator, trains="shared", micro_batch="auto")
    found = evaluated(evaluator, same, tmp_path)
    assert found.curve == []
    assert found.scores.metrics["accuracy"] > 0
    torch.manual_seed(0)
    start = dict(evaluator.task.load().named_parameters())
    for name, p in load_shared(saved(tmp_path)).named_parameters():
        assert name.startswith("classifier") or torch.equal(p, start[name])
