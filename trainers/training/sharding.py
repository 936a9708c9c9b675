"""Train with weights, gradients and optimiser state divided among a team (FSDP2, arXiv 2304.11277).

Each layer is a group whose weights are gathered while it runs. Banks, which layers read without
calling them, are a group of their own, divided once and gathered for the whole step; so is the rest
of the model. A copy is divided: what is trained is given back to the model, which stays ordinary.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from sharetune.spaces.errors import CandidateFault
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.models.modules import RepeatedModule
from sharetune.trainers.models.softening import harden_, soft_layers
from sharetune.trainers.models.structure import BANKS, find_stacks
from sharetune.trainers.training.data_parallel import leads, members, random_parts


class GatheredBanks(nn.ModuleList):
    """Banks that are called before a model runs, for the sake of what then gathers them."""

    def forward(self) -> None:
        """Do nothing."""


@contextmanager
def sharded(model: PreTrainedModel, recipe: Recipe) -> Iterator[PreTrainedModel]:
    """Yield a copy of `model` that is divided among the team; `model` gets its weights at the end.

    Meanwhile `model` is kept in the processor's memory; at the end it is where the copy was.
    Raises :class:`CandidateFault` where members would not use the same weights in a step.
    """
    reason = random_parts(model, recipe)
    if reason is not None:
        raise CandidateFault(f"a training cannot be sharded over workers with {reason}")
    model.to("cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        distributed.broadcast(tensor.data, 0)
    copied = shard_(copy.deepcopy(model))
    yield copied
    weights, device = whole(copied.state_dict()), copied.device
    if not soft_layers(copied):
        harden_(model)
    model.load_state_dict(weights)
    model.to(device)


def shard_(model: PreTrainedModel) -> PreTrainedModel:
    """Divide the parameters of `model` among all members, in place."""
    layers, mesh = _layers_apart(model), _mesh()
    if list(getattr(model, BANKS, ())):
        model.banks.__class__ = GatheredBanks
        fully_shard(model.banks, mesh=mesh, reshard_after_forward=False)
        model.register_forward_pre_hook(lambda one, _: one.banks())
    # A loss term reads soft layers' own weights once they have run.
    frees = not soft_layers(model)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=frees)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model


def _layers_apart(model: PreTrainedModel) -> list[nn.Module]:
    """Return the layers whose modules run in no other layer."""
    lent = {m.source for m in model.modules() if isinstance(m, RepeatedModule)}
    layers = [layer for stack in find_stacks(model).values() for layer in stack.layers]
    return [layer for layer in dict.fromkeys(layers) if lent.isdisjoint(layer.modules())]


def shard_around_(learner: nn.Module) -> nn.Module:
    """Make `learner`, whose model is sharded, the root of a step, in place."""
    return fully_shard(learner, mesh=_mesh())  # type: ignore[return-value]


def _mesh() -> DeviceMesh:
    return init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (members(),))


def is_sharded(model: nn.Module) -> bool:
    """Return whether `model` was divided by :func:`shard_`."""
    return isinstance(model, FSDPModule)


def takes_part(model: nn.Module) -> bool:
    """Return whether this process must run `model` where the leader measures it."""
    return leads() or is_sharded(model)


def whole(value: Any, *, kept: bool = True) -> Any:
    """Return `value`, tensors in dicts and lists, with what is divided gathered on the processor.

    All members must call it; one that has not `kept` gets None in its place.
    """
    if isinstance(value, DTensor):
        gathered = value.full_tensor()
        return gathered.cpu() if kept else None
    if isinstance(value, Mapping):
        return {key: whole(one, kept=kept) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(one, kept=kept) for one in value)
    return value


def placed(value: Tensor, like: Tensor) -> Tensor:
    """Return this member's part of `value` if `like`, of the same shape, is divided; or `value`."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    here = value.to(like.device)
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)


def load_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole `weights` into a model that may be sharded, in place."""
    own = model.state_dict()
    model.load_state_dict({name: placed(v, own[name]) for name, v in weights.items()})


def placed_state(state: dict[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return this member's part of an optimiser's whole `state`, for its parameter `groups`."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    divided = {
        number: {name: placed(value, parameters[number]) for name, value in kept.items()}
        for number, kept in state["state"].items()
    }
    return state | {"state": divided}
