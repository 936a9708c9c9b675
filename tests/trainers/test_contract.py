"""What must hold for every family, form and assignment: a new entry is tested by itself."""

import copy

import pytest
import torch

from spaces import SharingPlan
from spaces.assignments import ASSIGNMENTS
from spaces.forms import FORMS
from tests.families import CONFIGS, inputs, logits, tiny
from trainers import is_shared, load_shared, materialize_, share_
from trainers.losses import bank_parameters
from trainers.sizes import parameters

KNOBS = {"bank": {"ratio": 0.5}}
ARGUMENTS = {"one": None, "owners": [0, 1, 1, 0, 2, 2]}
CASES = [
    (family, form, assignment)
    for family in CONFIGS
    for form in FORMS
    for assignment in (ASSIGNMENTS if not FORMS[form].removes_layers else ["one"])
]


def plan(form: str, assignment: str) -> SharingPlan:
    layers = "1..2" if FORMS[form].removes_layers else "0..5"
    group = {
        "layers": layers,
        "form": {form: KNOBS.get(form, {})},
        "assign": {assignment: ARGUMENTS.get(assignment, 2)},
    }
    return SharingPlan.model_validate({"groups": [group]})


@pytest.fixture(params=CASES, ids="-".join)
def shared(request):
    family, form, assignment = request.param
    return share_(tiny(family), plan(form, assignment))


def test_materialised_equals_shared(shared):
    before = logits(shared)
    dense = materialize_(copy.deepcopy(shared))
    assert not is_shared(dense)
    assert torch.allclose(logits(dense), before, atol=1e-5, rtol=0)
    assert not any("banks" in name for name in dense.state_dict())


def test_saved_equals_loaded(shared, tmp_path):
    shared.save_pretrained(tmp_path)
    loaded = load_shared(tmp_path)
    assert type(loaded) is type(shared)
    assert torch.equal(logits(loaded), logits(shared))
    assert loaded.sharing == shared.sharing


def test_no_tensor_has_two_names(shared):
    tensors = list(shared.state_dict(keep_vars=True).values())
    assert len({id(t) for t in tensors}) == len(tensors)
    assert parameters([shared]) == sum(p.numel() for p in shared.parameters())


def test_a_copy_shares_with_itself_and_not_with_the_original(shared):
    twin = copy.deepcopy(shared)
    before = logits(shared)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert logits(twin).abs().max() == 0
    assert torch.equal(logits(shared), before)


def test_a_training_step_moves_every_parameter_that_matters(shared):
    shared.train()
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.1)
    before = [p.detach().clone() for p in bank_parameters(shared)]
    loss = shared(**inputs(), labels=torch.tensor([0, 1])).loss
    loss.backward()
    optimizer.step()
    after = bank_parameters(shared)
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_dtype_moves_keep_the_sharing(shared):
    half = copy.deepcopy(shared).to(torch.float64)
    assert {p.dtype for p in half.parameters()} == {torch.float64}
    assert torch.allclose(logits(half).float(), logits(shared), atol=1e-5)
    assert parameters([half]) == parameters([shared])
