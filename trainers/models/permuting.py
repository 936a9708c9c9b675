"""Check on the model itself that the units of a layer can be permuted.

Where units lie in a matrix is a guess from its structure. So they are permuted once, in every
layer, while the model answers one small batch: if the guess is right, the matrix that reads the
units gives what it gave before.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sharetune.trainers.models.alignment import can_align, permute_
from sharetune.trainers.models.mixtures import equal_but_for_rounding
from sharetune.trainers.models.sample_inputs import fitting_sample
from sharetune.trainers.models.structure import Slot, Stack, attention_path

Family = tuple[str, str]
"""A stack's name, and the path of an attention in its layers; empty for the FFN."""

logger = logging.getLogger(__name__)


def movable_families(model: PreTrainedModel, stacks: Mapping[str, Stack]) -> set[Family]:
    """Return the attentions and FFNs whose units can be permuted without changing the model.

    Those that look so from their structure are tried. A family that fails, or a model that gives
    no answer to a made-up batch, is named in a warning. The weights are left as they were.
    """
    likely = {
        (name, prefix)
        for name, stack in stacks.items()
        for prefix, slots in stack.families().items()
        if can_align(stack, slots)
    }
    if not likely:
        return set()
    before = _answers(model, stacks, likely)
    if before is None:
        logger.warning(
            "heads and neurons of %s stay in place, because it gives no answer to a made-up batch "
            "on which permuting them could be checked",
            type(model).__name__,
        )
        return set()
    if not (failing := _changed(model, stacks, likely, before)):
        return likely
    found = {f for f in failing if _changed(model, stacks, {f}, before)} or failing
    idle = {
        (stack, attention_path(path)) for (stack, _, path), calls in before.items() if not calls
    }
    for stack, prefix in sorted(found - idle):
        logger.warning(
            "%s of stack %s of %s stay in place, because permuting them changes what it computes",
            f"heads of {prefix}" if prefix else "neurons",
            stack,
            type(model).__name__,
        )
    return likely - found


def _changed(
    model: PreTrainedModel, stacks: Mapping[str, Stack], families: set[Family], before: Any
) -> set[Family]:
    """Return the `families` if any of their outputs changes when their units are permuted."""
    with _permuted(stacks, families):
        after = _answers(model, stacks, families)
    same = after is not None and all(_are_close(before[key], after[key]) for key in after)
    return set() if same else families


def _are_close(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    """Return whether the outputs of one matrix, at all its calls, are equal but for rounding."""
    if len(before) != len(after) or not before:
        return False
    return all(map(equal_but_for_rounding, before, after))


@contextmanager
def _permuted(stacks: Mapping[str, Stack], families: set[Family]) -> Iterator[None]:
    """Permute the units of `families` in all layers within the context."""
    moved: list[tuple[nn.Module, Slot, Tensor]] = []
    generator = torch.Generator().manual_seed(0)
    try:
        for _, layer, slots in _places(stacks, families):
            order = torch.randperm(slots[0].units, generator=generator)
            if order.tolist() == sorted(order.tolist()):
                order = order.roll(1)
            for slot in slots:
                module = layer.get_submodule(slot.path)
                permute_(module, slot, order)
                moved.append((module, slot, order.argsort()))
        yield
    finally:
        for module, slot, back in moved:
            permute_(module, slot, back)


def _places(
    stacks: Mapping[str, Stack], families: set[Family]
) -> Iterator[tuple[tuple[str, int], nn.Module, Sequence[Slot]]]:
    """Yield the stack and number, the layer and the matrices of each of `families`."""
    for name, stack in stacks.items():
        for index, layer in enumerate(stack.layers):
            for prefix, slots in stack.families(index).items():
                if (name, prefix) in families:
                    yield (name, index), layer, slots


CAPTURING = "_output_capturing_hooks_installed"
"""Attribute by which the library knows that a model has the hooks that record hidden states."""


@contextmanager
def _hooks_removed(model: nn.Module) -> Iterator[None]:
    """Remove the hooks that a model itself installs within the context, which cannot be pickled."""
    before = {id(m): set(m._forward_hooks) for m in model.modules()}
    known = {id(m) for m in model.modules() if CAPTURING in vars(m)}
    try:
        yield
    finally:
        for module in model.modules():
            for key in set(module._forward_hooks) - before.get(id(module), set()):
                del module._forward_hooks[key]
            if id(module) not in known:
                vars(module).pop(CAPTURING, None)


def _answers(
    model: PreTrainedModel, stacks: Mapping[str, Stack], families: set[Family]
) -> dict[tuple[str, int, str], list[Tensor]] | None:
    """Return the outputs, by layer and path, of the matrices that read the units of `families`.

    None if the model cannot be run on a made-up batch.
    """
    outputs: dict[tuple[str, int, str], list[Tensor]] = {}
    was_training = model.training
    with ExitStack() as hooks, torch.no_grad(), _hooks_removed(model):
        for place, layer, slots in _places(stacks, families):
            for slot in slots:
                if slot.axis == 1:
                    kept = outputs.setdefault((*place, slot.path), [])

                    def keep(_: Any, __: Any, output: Tensor, kept: list[Tensor] = kept) -> None:
                        kept.append(output.detach().clone())

                    hook = layer.get_submodule(slot.path).register_forward_hook(keep)
                    hooks.callback(hook.remove)
        try:
            model.eval()(**fitting_sample(model))
        except Exception as error:  # whatever a foreign model raises on a made-up batch
            logger.debug("%s gives no answer: %s", type(model).__name__, error)
            return None
        finally:
            model.train(was_training)
    return outputs
