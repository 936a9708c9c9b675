"""Perturbations: norm, direction and what is learned from, on losses worked out by hand."""

import pytest
import torch

from sharetune.spaces.adversaries import (
    ADVERSARIES,
    FGM,
    PGD,
    FreeLB,
    read_adversary,
    write_adversary,
)
from sharetune.spaces.errors import ConfigError
from sharetune.trainers.training.adversarial import (
    ATTACKS,
    Perturbed,
    Step,
    embedded_zeros,
    project,
    unit,
)
from tests.families import inputs, tiny


class Linear:
    """loss(delta) = theta * (1 + the sum of delta), theta = 1; every delta is remembered.

    Over one example of two tokens and two features the unit gradient is 0.5 everywhere, so a
    step of length a adds 2 a to the sum.
    """

    def __init__(self):
        self.theta = torch.ones((), requires_grad=True)
        self.sums, self.norms = [], []

    def loss(self, delta):
        self.sums.append(round(delta.sum().item(), 5))
        self.norms.append(round(delta.norm().item(), 5))
        return self.theta * (1 + delta.sum())

    def step(self):
        return Step(self.loss, torch.Tensor.backward, torch.zeros(1, 2, 2), torch.ones(1, 2, 1))


def attacked(adversary):
    case = Linear()
    loss = ATTACKS[adversary.name](adversary, case.step())
    return case, loss.item(), case.theta.grad.item()


def test_fgm_steps_once_along_the_gradient():
    case, loss, gradient = attacked(FGM(epsilon=1.0))
    assert case.norms == [0.0, 1.0]
    assert case.sums == [0.0, 2.0]
    assert (loss, gradient) == (1.0, pytest.approx(1 + 3))


def test_pgd_stays_in_the_ball_and_learns_from_its_last_step():
    case, loss, gradient = attacked(PGD(epsilon=0.5, alpha=0.3, steps=3))
    assert case.norms == [0.0, 0.3, 0.5, 0.5]
    # the clean gradient, 1, and that at a sum of 1, which is 2
    assert (loss, gradient) == (1.0, pytest.approx(3.0))


def test_freelb_accumulates_the_mean_gradient_over_its_steps():
    case, loss, gradient = attacked(FreeLB(epsilon=1.0, alpha=0.3, steps=3, start=0.0))
    assert case.norms == [0.0, 0.3, 0.6]
    # (1 + 1.6 + 2.2) / 3
    assert gradient == pytest.approx(1.6)
    assert loss == pytest.approx(1.6)
    case, _, gradient = attacked(FreeLB(epsilon=0.5, alpha=0.3, steps=3, start=0.0))
    assert case.norms == [0.0, 0.3, 0.5]
    assert gradient == pytest.approx((1 + 1.6 + 2.0) / 3)


def test_freelb_starts_inside_its_norm_and_never_on_padding():
    torch.manual_seed(0)
    seen = []
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])[..., None]

    def loss(delta):
        seen.append(delta.detach())
        return (delta * mask).sum()

    step = Step(loss, torch.Tensor.backward, torch.zeros(2, 3, 4), mask)
    ATTACKS["freelb"](FreeLB(start=0.5, steps=1), step)
    norms = seen[0].flatten(1).norm(dim=1)
    assert (norms > 0.1).all()
    assert (norms < 0.5).all()
    assert seen[0][0, 2].abs().sum() == 0


def test_norms_are_of_one_example():
    gradient = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
    assert torch.equal(unit(gradient), torch.tensor([[[0.6, 0.8]], [[0.0, 0.0]]]))
    assert torch.allclose(project(gradient, 2.5)[0], torch.tensor([[1.5, 2.0]]))
    assert torch.equal(project(gradient, 10.0), gradient)


@pytest.mark.parametrize("family", ["bert", "gpt2", "distilbert"])
def test_a_perturbation_moves_the_embeddings_and_leaves_no_hook(family):
    model = tiny(family)
    given = inputs()
    zeros, mask = embedded_zeros(model, given)
    assert zeros.shape == (2, 9, 48)
    assert mask.sum() == 16
    plain = model(**given).logits
    with Perturbed(model) as perturbed:
        perturbed.delta = zeros
        assert torch.equal(model(**given).logits, plain)
        perturbed.delta = 0.1 * torch.randn_like(zeros)
        assert not torch.allclose(model(**given).logits, plain)
    assert torch.equal(model(**given).logits, plain)
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("name", ADVERSARIES)
def test_every_adversary_is_written_as_it_is_read(name):
    assert write_adversary(read_adversary(name)) == name
    written = {name: {"epsilon": 0.5}}
    assert write_adversary(read_adversary(written)) == written
    assert name in ATTACKS


def test_an_unknown_adversary_or_knob():
    with pytest.raises(ConfigError, match="unknown adversary: 'fgsm'") as caught:
        read_adversary("fgsm")
    assert "did you mean 'fgm'?" in caught.value.hint
    with pytest.raises(ConfigError, match="pgd.step: extra inputs") as caught:
        read_adversary({"pgd": {"step": 3}})
    assert caught.value.hint == "knobs of pgd: epsilon, alpha, steps"
