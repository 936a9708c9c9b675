"""Weights that several layers read are not changed at one of them."""

import pytest
import torch

from sharetune.spaces.errors import ModelError
from sharetune.trainers import share_params
from sharetune.trainers.models.modules import linear, repeated
from tests.families import logits, tiny

CHANGES = {
    "merged": lambda weight: weight.data.add_(1),
    "replaced": lambda weight: setattr(weight, "data", torch.zeros(48, 48)),
    "in place": lambda weight: weight.mul_(2),
    "an entry": lambda weight: weight.__setitem__(0, 1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_a_reader_is_not_changed(change, ratio):
    model = share_params(tiny("llama"), 0, 1, ratio)
    before = logits(model)
    reader = model.model.layers[1].self_attn.q_proj
    with torch.no_grad(), pytest.raises(ModelError, match="cannot be changed at one of them") as e:
        CHANGES[change](reader.weight)
    assert "export as dense first" in e.value.hint
    assert torch.equal(logits(model), before)


def test_a_second_run_is_not_changed():
    holder = torch.nn.Sequential(linear(torch.ones(2, 3)))
    again = repeated(holder, "0")
    with pytest.raises(ModelError, match="cannot be changed"):
        again.weight.data += 1
    assert again(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]


def test_what_is_read_is_an_ordinary_tensor():
    model = share_params(tiny("llama"), 0, 1, 1)
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert weight.shape == (48, 48) and weight.requires_grad
    assert type(weight + 1) is type(weight.detach()) is type(weight.T) is torch.Tensor
    assert weight.data.clone().add_(1).shape == (48, 48)
    weight.square().sum().backward()
    assert model.banks[0]["self_attn_q_proj"].weight.grad.abs().sum() > 0


def test_others_may_be_changed_to_what_is_read():
    model = share_params(tiny("llama"), 0, 1, 1)
    own = torch.zeros(48, 48)
    own.copy_(model.model.layers[0].self_attn.q_proj.weight)
    assert torch.equal(own, model.banks[0]["self_attn_q_proj"].weight)
