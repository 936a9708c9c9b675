"""Dropout, terms on the banks, and ending early, each on a case that can be worked out."""

import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from sharetune.spaces import SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.models.parameters import bank_parameters
from sharetune.trainers.training.dropout import set_dropout_
from sharetune.trainers.training.losses import LOSSES
from sharetune.trainers.training.patience import Patience, hold_out
from tests.families import tiny


def test_the_start_of_a_bank_is_where_its_penalty_is_zero():
    model = share_(tiny("bert"), SharingPlan.range(1, 4, 1.0))
    term = LOSSES["bank_l2_start"](model, 2.0)
    assert term().item() == 0.0
    with torch.no_grad():
        bank_parameters(model)[0][:2, :3] += 0.5
    # 2 / 2 * six squares of 0.5
    assert abs(term().item() - 1.5) < 1e-5
    term().backward()
    assert abs(bank_parameters(model)[0].grad.sum().item() - 6.0) < 1e-4


def test_the_decay_of_a_bank_pulls_to_zero_and_nothing_else():
    model = share_(tiny("bert"), SharingPlan.range(1, 4, 1.0))
    with torch.no_grad():
        for parameter in bank_parameters(model):
            parameter.zero_()
        bank_parameters(model)[0][:2, :3] = 0.5
    term = LOSSES["bank_l2"](model, 0.4)
    # 0.4 / 2 * six squares of 0.5, and its gradient 0.4 * 0.5
    assert abs(term().item() - 0.3) < 1e-6
    term().backward()
    gradient = bank_parameters(model)[0].grad
    assert torch.allclose(gradient[:2, :3], torch.tensor(0.2))
    assert abs(gradient.sum().item() - 1.2) < 1e-5
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("banks"))


def test_every_dropout_of_a_model_is_set():
    for family in ("bert", "gpt2", "llama", "bart", "wav2vec2"):
        model = tiny(family)
        set_dropout_(model, 0.3)
        assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} <= {0.3}
    assert model.wav2vec2.encoder.layers[0].attention.dropout == 0.3


class Falling(nn.Module):
    """A model whose loss is the next of a list, and whose weight says which look it was."""

    def __init__(self, losses):
        super().__init__()
        self.look = nn.Parameter(torch.zeros(()))
        self.losses = iter(losses)

    def forward(self, labels):
        return type("Output", (), {"loss": torch.tensor(next(self.losses))})


def test_training_ends_after_two_looks_without_a_better_loss_and_goes_back():
    model = Falling([3.0, 2.0, 2.5, 2.1, 1.0])
    patience = Patience(2, [0, 1], lambda rows: {"labels": torch.tensor(rows)})
    control, seen = TrainerControl(), []
    for step in range(1, 6):
        with torch.no_grad():
            model.look.fill_(step)
        state = TrainerState(max_steps=20, global_step=step)
        patience.on_step_end(None, state, control, model=model)
        seen.append(control.should_training_stop)
        if control.should_training_stop:
            break
    assert seen == [False, False, False, True]
    patience.on_train_end(None, state, control, model=model)
    assert model.look.item() == 2.0


def test_a_tenth_is_held_out():
    rest, held = hold_out(list(range(25)))
    assert list(held) == [0, 10, 20]
    assert len(rest) == 22
    assert [len(part) for part in hold_out([5, 6])] == [1, 1]
