"""What must hold for every family, form and assignment: a new entry is tested by itself."""

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from sharetune.spaces import SharingPlan
from sharetune.spaces.assignments import ASSIGNMENTS
from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import FORMS
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers import is_shared, load_shared, materialize_, share_
from sharetune.trainers.measuring.sizes import parameters, saved_bytes
from sharetune.trainers.models.parameters import bank_parameters
from sharetune.trainers.models.structure import stack_shapes
from tests.families import FAMILIES, WRITING, inputs_of, labels_of, logits, tiny

KNOBS: dict[str, dict[str, Any]] = {}
ARGUMENTS = {"one": None, "each": None, "owners": [0, 1, 1, 0, 2, 2]}
POSITIONS = "cannot reuse k and v, because relative positions go through attention.self.key_proj"
HEADS_STAY = {"t5", "t5-gated", "swin", "deberta-v2-own-positions"}
REFUSED = {
    ("deberta-v2", "reuse"): POSITIONS,
    ("deberta-v2-own-positions", "reuse"): POSITIONS,
    ("swin", "reuse"): "because they look at different tokens: shift_size=0, shift_size=1",
}


def assignments(family: str, form: str) -> list[str]:
    """All of them for BERT; for other families one, and another that goes round."""
    if not FORMS[form].shares:
        return ["one"]
    if family == "bert":
        return list(ASSIGNMENTS)
    turn = list(FAMILIES).index(family)
    others = [name for name in ASSIGNMENTS if name != "one"]
    sharing = [name for name in FORMS if FORMS[name].shares]
    return ["one", others[turn % len(others)]] if sharing[turn % len(sharing)] == form else ["one"]


CASES = [
    (family, form, assignment)
    for family in FAMILIES
    for form in FORMS
    if (family, form) not in REFUSED
    for assignment in assignments(family, form)
]


TURNS = 6


def turn(family: str, form: str, assignment: str) -> int:
    """Which of the six tests of all families is quick for a case: each family with each form
    in one of them, and each family, each form and each assignment in all six."""
    names = (FAMILIES, family), (FORMS, form), (ASSIGNMENTS, assignment)
    return sum(list(every).index(name) for every, name in names) % TURNS


def in_turn(quick: int, cases: list[tuple[str, str, str]] = CASES) -> list[Any]:
    """The cases as parameters, slow but for those of one turn and BERT's banks; one process
    takes all of a family, which are built once for the tests that leave them as they are."""
    return [
        pytest.param(
            case,
            id="-".join(case),
            marks=[pytest.mark.xdist_group(case[0])]
            + ([] if turn(*case) == quick or case[:2] == ("bert", "bank") else [pytest.mark.slow]),
        )
        for case in cases
    ]


WRITERS = [case for case in CASES if FAMILIES[case[0]][0] in WRITING]


def knobs(form: str) -> dict[str, Any]:
    """An example of every knob that the form requires."""
    required = {n: f.examples for n, f in FORMS[form].model_fields.items() if f.is_required()}
    return {name: examples[0] for name, examples in required.items() if examples} | KNOBS.get(
        form, {}
    )


def groups_of(shapes: Mapping[str, StackShape], case: tuple[str, str, str]) -> list[dict[str, Any]]:
    """A group in every stack; one that narrows spares heads that other weights count on."""
    family, form, assignment = case
    parts = ["ffn"] if form == "narrow" and family in HEADS_STAY else ["attention", "ffn"]
    groups = [group(name, shape.depth, form, assignment) for name, shape in shapes.items()]
    return groups if form == "reuse" else [one | {"parts": parts} for one in groups]


def group(stack: str, depth: int, form: str, assignment: str) -> dict[str, Any]:
    argument = ARGUMENTS.get(assignment, 2)
    if isinstance(argument, list):
        argument = argument[:depth]
    layers = "all"
    if form == "merge":
        layers = "-2..-1"
    elif FORMS[form].removes_layers:
        layers = [1, 2] if depth > 4 else [1]
    elif assignment == "each" and depth > 2:
        layers = [1, 2]
    return {
        "stack": stack,
        "layers": layers,
        "form": {form: knobs(form)},
        "assign": {assignment: argument},
        "times": 2 if assignment == "each" else 1,
    }


def share_case(case: tuple[str, str, str]) -> PreTrainedModel:
    model = tiny(case[0])
    shapes = {
        name: replace(shape, similarity=nearness(shape.depth))
        for name, shape in stack_shapes(model).items()
    }
    plan = SharingPlan.model_validate({"groups": groups_of(shapes, case)})
    return share_(model, plan.bound(shapes))


def nearness(depth: int) -> tuple[tuple[float, ...], ...]:
    """Layers that are the more alike the nearer they stand."""
    return tuple(tuple(1 / (1 + abs(i - j)) for j in range(depth)) for i in range(depth))


def can_be_copied(model: PreTrainedModel) -> bool:
    """Wav2Vec2's and HuBERT's parametrised convolution cannot, whether shared or not."""
    return not any(hasattr(module, "parametrizations") for module in model.modules())


@pytest.mark.parametrize(("family", "form"), REFUSED)
def test_what_a_family_cannot_do_is_refused_before_anything_is_changed(family, form):
    model = tiny(family)
    groups = [group(name, s.depth, form, "one") for name, s in stack_shapes(model).items()]
    with pytest.raises(PlanError, match=REFUSED[family, form]):
        share_(model, SharingPlan.model_validate({"groups": groups}))
    assert torch.equal(logits(model), logits(tiny(family)))


def test_each_family_meets_each_form_in_the_quick_suite():
    quick = [
        {p.values[0] for p in in_turn(n) if "slow" not in {m.name for m in p.marks}}
        for n in range(TURNS)
    ]
    # 22 families and 9 forms, of which 3 pairs are refused
    assert len({case[:2] for cases in quick for case in cases}) == 195
    for cases in quick:
        families, forms, given = (set(names) for names in zip(*cases, strict=True))
        assert (families, forms, given) == (set(FAMILIES), set(FORMS), set(ASSIGNMENTS))


@pytest.fixture(scope="module")
def shared(request):
    """A model for tests that leave it as it is."""
    return share_case(request.param)


@pytest.mark.parametrize("shared", in_turn(0), indirect=True)
def test_saved_equals_loaded_and_is_of_the_size_foretold(shared, tmp_path):
    shared.save_pretrained(tmp_path)
    assert os.path.getsize(tmp_path / "model.safetensors") == saved_bytes(shared)
    loaded = load_shared(tmp_path)
    assert type(loaded) is type(shared)
    assert torch.equal(logits(loaded), logits(shared))
    assert loaded.sharing == shared.sharing


@pytest.mark.parametrize("shared", in_turn(1), indirect=True)
def test_no_tensor_has_two_names_but_for_tied_embeddings(shared):
    tensors = shared.state_dict(keep_vars=True)
    own = [tensor for name, tensor in tensors.items() if name not in shared.all_tied_weights_keys]
    assert len({id(tensor) for tensor in own}) == len(own)
    assert parameters([shared]) == sum(p.numel() for p in shared.parameters())


@pytest.mark.parametrize("shared", in_turn(2), indirect=True)
def test_a_copy_shares_with_itself_and_not_with_the_original(shared):
    if not can_be_copied(shared):
        return
    twin = copy.deepcopy(shared)
    before = logits(shared)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert logits(twin).abs().max() == 0
    assert torch.equal(logits(shared), before)


@pytest.mark.parametrize("shared", in_turn(3), indirect=True)
def test_a_training_step_moves_every_bank(shared):
    before = copy.deepcopy(shared.state_dict())
    banks = [bank.detach().clone() for bank in bank_parameters(shared)]
    shared.train()
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.1)
    shared(**inputs_of(shared), labels=labels_of(shared)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    moved = bank_parameters(shared)
    assert all(not torch.equal(old, new) for old, new in zip(banks, moved, strict=True))
    shared.load_state_dict(before)
    shared.eval()


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Gradients of one batch, with the dropout of a fixed seed."""
    torch.manual_seed(0)
    model.train()
    model(**inputs_of(model), labels=labels_of(model)).loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.eval()
    return found


@pytest.mark.parametrize("shared", in_turn(4), indirect=True)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(shared):
    plain = gradients(shared)
    shared.gradient_checkpointing_enable()
    replayed = gradients(shared)
    shared.gradient_checkpointing_disable()
    assert plain.keys() == replayed.keys()
    assert all(torch.allclose(plain[n], replayed[n], atol=1e-5) for n in plain)


@pytest.mark.parametrize("case", in_turn(5))
def test_dtype_moves_keep_the_sharing_and_materialised_equals_shared(case):
    model = share_case(case)
    single, count = logits(model), parameters([model])
    double = logits(model.to(torch.float64))
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert parameters([model]) == count
    assert torch.allclose(double.float(), single, atol=1e-4)
    dense = materialize_(model)
    assert is_shared(dense) == (not FORMS[case[1]].materializes)
    assert torch.allclose(logits(dense), double, atol=1e-8)
    assert not any("banks" in name for name in dense.state_dict())


@pytest.mark.parametrize("case", in_turn(0, WRITERS))
def test_generation_with_cache_equals_generation_without(case):
    model = share_case(case)
    given = {name: t for name, t in inputs_of(model).items() if "decoder" not in name}
    with_cache, without = (
        model.generate(
            **given,
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=False,
            use_cache=use_cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        for use_cache in (True, False)
    )
    assert torch.equal(with_cache.sequences, without.sequences)
    for one, two in zip(with_cache.logits, without.logits, strict=True):
        assert torch.allclose(one, two, atol=1e-5)
