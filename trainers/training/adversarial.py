"""Take training steps whose loss is raised by a small change of the input embeddings.

A step here replaces the Trainer's forward and backward pass by several; knobs and papers are in
`sharetune.spaces.adversaries`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sharetune.spaces.adversaries import ADVERSARIES, PGD, Adversary, FreeLB
from sharetune.spaces.registry import Registry


class Perturbed:
    """While open, `delta` is added to what the model's input embeddings give, where it is set."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.embeddings: nn.Module = model.get_input_embeddings()
        self.delta: Tensor | None = None

    def __enter__(self) -> "Perturbed":
        self._handle = self.embeddings.register_forward_hook(self._add)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.remove()

    def _add(self, _: nn.Module, __: object, output: Tensor) -> Tensor:
        return output if self.delta is None else output + self.delta


def _alone(last: bool) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Step:
    """One batch: `loss` of the batch under a perturbation, `backward` of a loss, and `zeros` in
    the embeddings' shape (batch, tokens, width). `mask` (batch, tokens, 1) is 0 on padding.

    Passes run inside ``during(last)``, which is told whether it is the step's last one.
    """

    loss: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor], None]
    zeros: Tensor
    mask: Tensor
    during: Callable[[bool], AbstractContextManager[None]] = _alone

    def learn(self, delta: Tensor, *, share: float = 1.0, last: bool = False) -> Tensor:
        """Add the gradients of `share` times the loss under `delta`; return that loss."""
        with self.during(last):
            loss = share * self.loss(delta)
            self.backward(loss)
        return loss.detach()

    def ascent(self, delta: Tensor) -> Tensor:
        """Return the gradient of the loss at `delta`, and learn nothing."""
        delta = delta.detach().requires_grad_()
        with self.during(False):
            (gradient,) = torch.autograd.grad(self.loss(delta), delta)
        return gradient


Attack = Callable[[Any, Step], Tensor]
"""``(adversary, step) -> the loss to report``; leaves the gradients of the parameters behind."""

ATTACKS: Registry[Attack] = Registry("adversary", declared=ADVERSARIES)


@ATTACKS.register("fgm")
def fgm(adversary: Adversary, step: Step) -> Tensor:
    """the batch's gradient plus that at ``epsilon * g / ||g||``"""
    clean, gradient = _clean(step)
    step.learn(adversary.epsilon * unit(gradient), last=True)
    return clean


@ATTACKS.register("pgd")
def pgd(adversary: PGD, step: Step) -> Tensor:
    """the batch's gradient plus that after the last of `steps` projected steps"""
    clean, gradient = _clean(step)
    delta = step.zeros
    for left in reversed(range(adversary.steps)):
        delta = project(delta + adversary.alpha * unit(gradient), adversary.epsilon)
        if left:
            gradient = step.ascent(delta)
    step.learn(delta, last=True)
    return clean


@ATTACKS.register("freelb")
def freelb(adversary: FreeLB, step: Step) -> Tensor:
    """the mean gradient over `steps` ascending steps, each of which is learned from"""
    tokens = step.mask.sum((1, 2), keepdim=True)
    size = adversary.start / (tokens * step.zeros.shape[-1]).sqrt()
    delta = step.mask * size * torch.empty_like(step.zeros).uniform_(-1, 1)
    total = torch.zeros((), device=delta.device)
    for left in reversed(range(adversary.steps)):
        delta = delta.detach().requires_grad_()
        total += step.learn(delta, share=1 / adversary.steps, last=not left)
        assert delta.grad is not None
        delta = project(delta + adversary.alpha * unit(delta.grad), adversary.epsilon)
    return total


def unit(gradient: Tensor) -> Tensor:
    """Scale each example's gradient to norm 1; zero stays zero."""
    return gradient / _norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def project(delta: Tensor, epsilon: float) -> Tensor:
    """Return each example's perturbation, drawn back to norm `epsilon` where it is longer."""
    return delta * (epsilon / _norm(delta).clamp_min(epsilon))


def embedded_zeros(model: PreTrainedModel, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return zeros in the shape of the batch's embeddings, and the mask that is 0 on padding."""
    with torch.no_grad():
        words: Tensor = model.get_input_embeddings()(inputs[model.main_input_name])
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape != words.shape[:2]:
        mask = words.new_ones(words.shape[:2])
    return torch.zeros_like(words), mask.to(words.dtype)[..., None]


def _clean(step: Step) -> tuple[Tensor, Tensor]:
    """Return the unperturbed loss, learned from, and its gradient at the embeddings."""
    nothing = step.zeros.clone().requires_grad_()
    loss = step.learn(nothing)
    assert nothing.grad is not None
    return loss, nothing.grad


def _norm(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1).view(-1, *[1] * (values.dim() - 1))
