"""Train low-rank matrices alone: LoRA's (Hu et al., arXiv 2106.09685), and those that readers have.

A layer's own matrix gets an adapter of PEFT, which is merged into it at the end. A reader of the
form `lowrank` has low-rank matrices of its own already, counted and stored with the plan, and these
are its adapter. Other readers have no place where a change of theirs alone could be stored.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sharetune.spaces.recipe import Recipe
from sharetune.trainers.models.forms.lowrank import LowRankLinear
from sharetune.trainers.models.modules import BankReader
from sharetune.trainers.models.parameters import head_parameters
from sharetune.trainers.models.structure import find_stacks
from sharetune.trainers.training.touched import Known, untouched


@contextmanager
def trained_alone(
    model: PreTrainedModel, recipe: Recipe, before: Known | None
) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters that `recipe` leaves as they are; adapters are there inside.

    `before` are those of the model without a plan, for a recipe that trains what is new.
    """
    if recipe.trains == "adapters":
        with adapted(model, recipe.adapter_rank, recipe.seed) as left:
            yield left
    else:
        yield [] if before is None else untouched(model, before)


@contextmanager
def adapted(model: PreTrainedModel, rank: int, seed: int = 0) -> Iterator[list[nn.Parameter]]:
    """Give each matrix of a stack's layers that no other layer reads an adapter of this rank.

    Their start is drawn by `seed` alone, so that a training which goes on elsewhere has the same.
    Yields the parameters that are to be frozen: all but the adapters, the low-rank matrices,
    scales and mixtures of `lowrank` readers, and a new head. At the end adapters are merged; after
    an error they stay.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    free = {id(p) for p in (*_readers_own(model), *_new_head(model))}
    names = _own_matrices(model)
    if names:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _inject_(model, names, rank)
    for parameter in trained:  # the library has frozen them for good
        parameter.requires_grad_(True)
    yield [parameter for parameter in trained if id(parameter) not in free]
    if names:
        _merge_(model)


def _own_matrices(model: PreTrainedModel) -> list[str]:
    """Return the names of matrices in the stacks' lists of layers that are ordinary modules."""
    lists = tuple(f"{stack.path}." for stack in find_stacks(model).values())
    readers = (module for module in model.modules() if isinstance(module, BankReader))
    parts = {id(part) for reader in readers for part in reader.modules()}
    return [
        name
        for name, module in model.named_modules()
        if name.startswith(lists)
        and type(module) in (nn.Linear, Conv1D)
        and id(module) not in parts
    ]


def _readers_own(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield what readers of the form `lowrank` have of their own, but for biases."""
    for module in model.modules():
        if isinstance(module, LowRankLinear):
            yield from (p for name, p in module.named_parameters() if name != "own_bias")


def _new_head(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """Yield the parameters of a head that did not come with the checkpoint."""
    head = set() if model.can_generate() else head_parameters(model)
    return (parameter for name, parameter in model.named_parameters() if name in head)


def _inject_(model: PreTrainedModel, names: list[str], rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    exactly = "|".join(map(re.escape, names))
    with warnings.catch_warnings():
        # of GPT-2's transposed matrices, which it sees
        warnings.simplefilter("ignore", UserWarning)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=exactly), model)


def _merge_(model: PreTrainedModel) -> None:
    """Merge every adapter into the matrix below it, and put that back in its place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {n: m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    for name, layer in found.items():
        layer.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
    vars(model).pop("peft_config", None)
