"""Permuted units: the function stays, what matches meets, what matters stays private."""

import copy
import weakref

import pytest
import torch

from sharetune.spaces import SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.models.alignment import ORDERS, UnitView, align_
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.matching import Partners
from sharetune.trainers.models.structure import attention_path, find_stacks
from sharetune.trainers.models.units import shared_units
from tests.families import CONFIGS, inputs, logits, tiny


def view(importance, features):
    vectors = torch.nn.functional.normalize(torch.tensor(features))
    return UnitView(torch.tensor(importance), lambda: vectors)


ONE = view([3.0, 1.0, 2.0], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
TWO = view([1.0, 2.0, 3.0], [[0.0, 0.1, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.2]])


@pytest.mark.parametrize(
    ("order", "shared", "expected"),
    [
        ("first", 2, [[0, 1, 2], [0, 1, 2]]),
        ("best-match", 3, [[0, 1, 2], [1, 2, 0]]),
        ("best-match", 1, [[0, 1, 2], [1, 2, 0]]),
        ("importance", 1, [[1, 0, 2], [0, 1, 2]]),
        ("importance", 2, [[1, 2, 0], [1, 0, 2]]),
    ],
)
def test_orders(order, shared, expected):
    found = [permutation.tolist() for permutation in ORDERS[order]([ONE, TWO], [shared, shared])]
    assert found == expected


@pytest.mark.parametrize("order", ["best-match", "importance"])
def test_few_layers_features_are_held_at_once(order):
    """The leader's, a layer's and what they are compared by; nine layers have them."""
    alive, most = weakref.WeakSet(), []

    def watched():
        vectors = torch.eye(3)
        alive.add(vectors)
        most.append(len(alive))
        return vectors

    views = [UnitView(torch.tensor([3.0, 1.0, 2.0]), watched) for _ in range(9)]
    assert len(ORDERS[order](views, [1] * 9)) == 9
    assert len(most) >= 9 and max(most) <= 1 + torch.get_num_threads() + 1


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("order", ["best-match", "importance"])
@pytest.mark.parametrize("name", CONFIGS)
def test_alignment_leaves_the_function_as_it_is(name, order, calibrated):
    model = tiny(name)
    before = logits(model)
    activations = record_activations(model, [inputs(8)]) if calibrated else None
    (stack,) = find_stacks(model).values()
    for which in {attention_path(slot.path) for slot in stack.slots}:
        slots = [slot for slot in stack.slots if attention_path(slot.path) == which]
        weights = copy.deepcopy(stack.layers.state_dict())
        shared, layers = (
            [shared_units(slots[0], 0.5)] * len(stack.layers),
            dict(enumerate(stack.layers)),
        )
        align_(stack.name, layers, slots, ORDERS[order], shared, activations)
        after = stack.layers.state_dict()
        assert any(not torch.equal(weights[key], after[key]) for key in weights)
    assert torch.allclose(logits(model), before, atol=1e-6)


def test_permuted_copies_of_a_layer_are_found_again():
    model = tiny("bert")
    layers = model.bert.encoder.layer
    neurons, heads = torch.randperm(96), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for parameter, source in zip(layers[2].parameters(), layers[1].parameters(), strict=True):
            parameter.copy_(source)
        inner, outer = layers[2].intermediate.dense, layers[2].output.dense
        inner.weight.copy_(inner.weight[neurons])
        inner.bias.copy_(inner.bias[neurons])
        outer.weight.copy_(outer.weight[:, neurons])
        rows = (heads[:, None] * 12 + torch.arange(12)).flatten()
        for matrix in (
            layers[2].attention.self.query,
            layers[2].attention.self.key,
            layers[2].attention.self.value,
        ):
            matrix.weight.copy_(matrix.weight[rows])
        output = layers[2].attention.output.dense
        output.weight.copy_(output.weight[:, rows])
    before = logits(model)
    tied = share_(
        copy.deepcopy(model),
        SharingPlan.range(1, 2, 1.0, units="best-match", init="mean"),
        record_activations(model, [inputs(16)]),
    )
    assert torch.allclose(logits(tied), before, atol=1e-6)


def test_padding_is_left_out():
    batch = inputs(2, 9)
    recorded = record_activations(tiny("bert"), [batch])
    assert {values.shape for values in recorded.values()} == {(16, 48), (16, 96)}
    assert len(recorded) == 36


def test_the_important_units_stay_private():
    model = tiny("bert")
    with torch.no_grad():
        for layer, loud in zip(model.bert.encoder.layer[1:3], (5, 17), strict=True):
            layer.output.dense.weight[:, loud] *= 100
    dense = [layer.output.dense.weight.clone() for layer in model.bert.encoder.layer]
    plan = SharingPlan.range(1, 2, 0.75, units="importance", parts=("ffn",))
    shared = share_(model, plan, record_activations(copy.deepcopy(model), [inputs(16)]))
    for index, loud in ((1, 5), (2, 17)):
        private = shared.bert.encoder.layer[index].output.dense.private.weight
        assert any(torch.equal(column, dense[index][:, loud]) for column in private.T)


def neurons(count, seed, common=None):
    """Features of `count` neurons on 300 tokens; a third of each is one of `common`, permuted."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(count, 300, generator=generator)
    if common is not None:
        own = own + 0.7 * common[torch.randperm(count, generator=generator)]
    return torch.nn.functional.normalize(own)


def test_many_neurons_are_matched_nearly_as_well_as_one_by_one():
    common = torch.randn(700, 300, generator=torch.Generator().manual_seed(0))
    one, two = neurons(700, 1, common), neurons(700, 2, common)
    exact, near = Partners(two).match(one), Partners(two, exact=0).match(one)
    assert sorted(near.tolist()) == sorted(exact.tolist()) == list(range(700))
    best, found = (float((one[order] * two).sum(1).mean()) for order in (exact, near))
    assert best == pytest.approx(0.328, abs=0.002)
    assert found > 0.325


def test_neurons_that_never_answer_or_answer_alike_are_matched_too():
    one, two = neurons(600, 1), neurons(600, 2)
    one[100:], two[:500] = 0, 0
    assert sorted(Partners(two, exact=0).match(one).tolist()) == list(range(600))
    assert sorted(Partners(0 * two, exact=0).match(0 * one).tolist()) == list(range(600))
    same = one[:1].expand(600, 300)
    assert sorted(Partners(same, exact=0).match(same).tolist()) == list(range(600))
