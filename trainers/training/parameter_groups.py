"""Set the learning rate of each parameter: banks, private layers, kept top layers, head.

All factors of the recipe multiply the learning rate, and AdamW's decay with it, because that is
``rate * weight_decay``. Where every factor is 1 there are two groups: matrices and vectors.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from statistics import mean
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sharetune.spaces.learning_rates import LR_RULES
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.models.modules import BankReader, resolved
from sharetune.trainers.models.parameters import head_parameters
from sharetune.trainers.models.structure import BANKS, Stack, find_stacks


def parameter_groups(model: PreTrainedModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Return optimiser groups: matrices decay, vectors do not; `recipe` scales their rates."""
    factors = lr_factors(model, recipe)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = factors.get(name, 1.0), parameter.dim() > 1
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate * factor,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (factor, decays), parameters in groups.items()
    ]


def lr_factors(model: PreTrainedModel, recipe: Recipe) -> dict[str, float]:
    """Return factors of the learning rate by parameter name; names left out learn at 1."""
    factors: dict[str, float] = defaultdict(lambda: 1.0)
    if recipe.kept_top_lr_scale != 1:
        for name in top_parameters(model, recipe.kept_top):
            factors[name] *= recipe.kept_top_lr_scale
    if recipe.head_lr_scale != 1:
        for name in head_parameters(model):
            factors[name] *= recipe.head_lr_scale
    for name, readers in bank_readers(model).items():
        factors[name] *= recipe.bank_lr_scale * LR_RULES[recipe.bank_lr_rule](readers)
    if recipe.layer_lr_decay != 1:
        for name, below in distances(model).items():
            factors[name] *= recipe.layer_lr_decay**below
    return factors


def top_parameters(model: PreTrainedModel, k: int) -> set[str]:
    """Return the names of the parameters of the top `k` layers of each stack."""
    names = set()
    for stack in find_stacks(model).values() if k else ():
        depth = len(stack.layers)
        for index in range(max(0, depth - k), depth):
            prefix = f"{stack.layer_path(index)}."
            names |= {prefix + name for name, _ in stack.layers[index].named_parameters()}
    return names


def bank_readers(model: PreTrainedModel) -> dict[str, int]:
    """Count the layers that read each parameter of the banks, by its name."""
    names = {id(p): name for name, p in model.named_parameters() if name.startswith(f"{BANKS}.")}
    return dict(Counter(names[id(p)] for p in _read_by(model)))


def distances(model: PreTrainedModel) -> dict[str, float]:
    """Count the layers from each parameter to the head, the parameter's own layer included.

    The top layer is at 1 and what comes before a stack at its depth + 1 (ELECTRA, arXiv
    2003.10555); a bank at the mean of its readers, everything after the stacks at 0.
    """
    stacks = list(find_stacks(model).values())
    lists = {stack.path: stack.length for stack in stacks}
    outside = [*(length + 1.0 for length in lists.values()), 0.0]
    passed, found = 0, {}
    for name, _ in model.named_parameters():
        path = next((path for path in lists if name.startswith(f"{path}.")), None)
        if path is None:
            found[name] = outside[passed]
        else:
            index = int(name[len(path) + 1 :].split(".")[0])
            found[name] = float(lists[path] - index)
            passed = list(lists).index(path) + 1
    return found | _bank_distances(model, stacks)


def _bank_distances(model: PreTrainedModel, stacks: list[Stack]) -> dict[str, float]:
    reached: dict[int, list[int]] = defaultdict(list)
    for stack in stacks:
        for place, layer in zip(stack.places, stack.layers, strict=True):
            for parameter in _read_by(layer):
                reached[id(parameter)].append(stack.length - place)
    return {
        name: float(mean(reached[id(parameter)]))
        for name, parameter in model.named_parameters()
        if id(parameter) in reached
    }


def _read_by(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the banks' parameters, once for every reader inside `module`, runs of it included."""
    for reader in map(resolved, module.modules()):
        if isinstance(reader, BankReader):
            yield from reader.entry.parameters()
