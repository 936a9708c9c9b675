"""Units that stay take over what the removed ones gave."""

import copy

import pytest
import torch
from torch import nn

from sharetune.spaces import SharingPlan
from sharetune.spaces.parts import FFN
from sharetune.trainers import share_
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.compensation import Moments, Recorded, compensate_, unit_sizes
from sharetune.trainers.models.structure import Slot, find_stacks, weight_out_in
from tests.families import inputs, inputs_of, logits, tiny

HALF = SharingPlan.model_validate(
    {"groups": [{"layers": "1..3", "parts": "ffn", "form": {"narrow": {"keep": 0.5}}}]}
)


def test_one_column_takes_over_what_another_gave_in_proportion():
    matrix = nn.Linear(2, 1, bias=False)
    matrix.weight.data[:] = torch.tensor([[3.0, 5.0]])
    # x2 = 2 x1 always, so that 3 x1 + 5 x2 = 13 x1; λ = 0.4 * 1 / 4 shrinks what is moved by 1.1
    seen = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [2.0, 4.0], [0.0, 0.0]])
    compensate_(matrix, torch.tensor([0]), Moments.of(seen))
    assert matrix.weight[0].tolist() == pytest.approx([3 + 10 / 1.1, 5], rel=1e-4)


def test_the_bias_takes_over_what_is_constant():
    matrix = nn.Linear(2, 1)
    matrix.weight.data[:] = torch.tensor([[3.0, 5.0]])
    matrix.bias.data[:] = 1.0
    seen = torch.tensor([[1.0, 7.0], [-1.0, 7.0]])
    compensate_(matrix, torch.tensor([0]), Moments.of(seen))
    assert matrix.weight[0, 0].item() == pytest.approx(3, abs=1e-5)
    assert matrix.bias.item() == pytest.approx(36)


def test_what_a_unit_gives_is_measured_over_its_columns():
    matrix = nn.Linear(4, 1, bias=False)
    matrix.weight.data[:] = torch.tensor([[1.0, 1.0, 2.0, 0.0]])
    seen = torch.tensor([[3.0, 4.0, 1.0, 9.0], [1.0, -1.0, 3.0, 9.0]])
    slot = Slot("o", ("o",), 1, 2, (4,))
    sizes = unit_sizes(matrix, slot, Moments.of(seen))
    # (3 + 4)² and 0; 2² and 6²
    assert sizes.tolist() == pytest.approx([(49 / 2) ** 0.5, 20**0.5])


def test_moments_add_up():
    one, two = torch.randn(3, 4), torch.randn(5, 4)
    added, whole = Moments.of(one), Moments.of(torch.cat([one, two]))
    added.add(two)
    assert torch.allclose(added.products, whole.products, atol=1e-5)
    assert torch.allclose(added.total, whole.total, atol=1e-5)
    assert added.tokens == 8


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "gpt-neox"])
def test_neurons_that_others_repeat_are_not_missed(family):
    model = tiny(family)
    stack = next(iter(find_stacks(model).values()))
    with torch.no_grad():
        for layer, slots in zip(stack.layers, stack.layer_slots, strict=True):
            for slot in (s for s in slots if set(s.roles) & set(FFN)):
                matrix = layer.get_submodule(slot.path)
                along = weight_out_in(matrix) if slot.axis == 0 else weight_out_in(matrix).T
                half = along.shape[0] // len(slot.sections) // 2
                if slot.axis == 1:
                    along[:half] *= 9  # these stay
                    continue
                for section in along.split(slot.sections):
                    section[half:] = section[:half]
                if matrix.bias is not None:
                    matrix.bias[half:] = matrix.bias[:half]
    before = logits(model)
    group = {"stack": stack.name, "layers": "1..1", "parts": "ffn"}
    plan = SharingPlan.model_validate({"groups": [group | {"form": {"narrow": {"keep": 0.5}}}]})
    recorded = record_activations(model, [inputs_of(model, 32)])
    plain = share_(copy.deepcopy(model), plan)
    moved = share_(copy.deepcopy(model), plan, recorded)
    error = (logits(moved) - before).abs().max()
    assert error < 0.5 * (logits(plain) - before).abs().max()


def test_moments_of_further_tokens_are_recorded_where_they_are_small():
    model = tiny("bert")
    batches = [inputs(4) for _ in range(3)]  # 30 tokens each
    recorded = record_activations(model, batches, 100, 90)
    found = recorded.moments["layers", 1, "output.dense"]
    assert (found.tokens, found.products.shape) == (90, (96, 96))
    assert recorded["layers", 1, "output.dense"].shape == (90, 96)
    assert set(record_activations(model, batches, 60, 90).moments) == {
        ("layers", i, "attention.output.dense") for i in range(6)
    }
    assert record_activations(model, batches, 30).moments == {}


def test_a_narrowed_model_errs_less_on_other_inputs():
    model = tiny("bert")
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.dim() > 1):
            matrix.mul_(4)
    recorded = record_activations(model, [inputs(256)], 2048, 2048)
    torch.manual_seed(1)
    other = inputs(64) | {"input_ids": torch.randint(3, 99, (64, 9))}
    before = model(**other).logits
    weights = share_(copy.deepcopy(model), HALF)(**other).logits
    moved = share_(copy.deepcopy(model), HALF, recorded)(**other).logits
    assert (moved - before).square().mean() < 0.6 * (weights - before).square().mean()


def test_moments_of_inputs_that_have_changed_are_not_used():
    key, inputs = ("layers", 0, "o"), torch.ones(2, 2)
    recorded = Recorded({key: inputs}, {key: Moments.of(torch.ones(9, 2))})
    assert recorded.moments_at(key).tokens == 9
    assert recorded.moments_at(("layers", 1, "o")) is None
    changed = copy.copy(recorded)
    changed[key] = torch.zeros(3, 2)
    assert (changed.moments_at(key).tokens, recorded.moments_at(key).tokens) == (3, 9)
