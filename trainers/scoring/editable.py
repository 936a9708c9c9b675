"""Make models shared by a plan that keep only their changed layers for themselves."""

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from sharetune.spaces.errors import PlanError
from sharetune.spaces.evaluator import Exchange
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.models.calibration import Activations
from sharetune.trainers.models.mixtures import without_balancing
from sharetune.trainers.models.sharing import share_
from sharetune.trainers.models.structure import find_stacks

Batch = Mapping[str, Tensor]
"""A model's inputs by name, and ``labels`` where there are any."""


class EditableModel:
    """An unshared `model` in eval mode, which stays as it is, and the plans tried on it.

    `activations` tell which units matter, and what calibrated forms are made from. `options` are
    keywords that keep a model that generates from filling a cache, and one with experts from
    adding the loss that balances them, which layers that answer from memory have no part in.
    """

    def __init__(self, model: PreTrainedModel, activations: Activations | None) -> None:
        self.model, self.activations = model.eval(), activations
        self.stacks = find_stacks(model)
        keywords = inspect.signature(model.forward).parameters
        self.options: dict[str, Any] = {"use_cache": False} if "use_cache" in keywords else {}
        self.options |= without_balancing(model)

    def shared(self, plan: SharingPlan) -> tuple[PreTrainedModel, dict[str, int]]:
        """Return the model shared by `plan`, which has only its changed layers for itself, and the
        first changed layer of each changed stack."""
        bound = plan.bound({name: stack.shape for name, stack in self.stacks.items()})
        touched: dict[str, set[int]] = {}
        for group in bound.groups:
            touched.setdefault(group.stack or "", set()).update(map(int, group.layers))
        own = {
            id(parameter)
            for name, layers in touched.items()
            for index in layers
            for parameter in self.stacks[name].layers[index].parameters()
        }
        kept = {id(t): t for t in _tensors(self.model) if id(t) not in own}
        shared = share_(copy.deepcopy(self.model, kept), bound, self.activations)
        return shared, {name: min(layers) for name, layers in touched.items()}

    def exchanged(self, exchange: Exchange) -> tuple[PreTrainedModel, dict[str, int]]:
        """Return the model with two layers exchanged, and the first of them by stack.

        Raises :class:`PlanError` for layers whose tensors differ in name or shape.
        """
        one, other = exchange.layers
        stack = self.stacks[exchange.stack]
        shapes = [{n: p.shape for n, p in stack.layers[i].named_parameters()} for i in (one, other)]
        if shapes[0] != shapes[1]:
            raise PlanError(
                f"layers that are exchanged must be alike, but {one} and {other} of stack "
                f"{stack.name!r} have other tensors",
                "leave the pair out",
            )
        changed = copy.deepcopy(self.model, {id(t): t for t in _tensors(self.model)})
        layers = changed.get_submodule(stack.path)
        assert isinstance(layers, nn.ModuleList)
        place, other_place = stack.places[one], stack.places[other]
        layers[place], layers[other_place] = layers[other_place], layers[place]
        return changed, {stack.name: one}


def without_labels(batch: Batch) -> dict[str, Tensor]:
    """Return the batch without its labels."""
    return {name: values for name, values in batch.items() if name != "labels"}


def _tensors(model: nn.Module) -> Iterable[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
