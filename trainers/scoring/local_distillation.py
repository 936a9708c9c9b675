"""Teach the new weights of each group of a plan, alone, to do what they replace.

The teacher is the unshared model's own stream of hidden states: whatever a group changed (a part of
a layer, a layer, or one layer in the place of several) learns to give, from the unshared model's
inputs there, the unshared model's outputs. Groups do not see each other, so all of them learn from
one pass of the unshared model, in any order and on any worker.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sharetune.spaces.forms import Merge, Narrow
from sharetune.spaces.group import Group
from sharetune.spaces.local_start import LocalStart
from sharetune.spaces.parts import EXPERTS, WHOLE
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.models.arrangement import arrangements
from sharetune.trainers.models.sharing import banks_of
from sharetune.trainers.models.structure import BANKS, Stack, find_stacks
from sharetune.trainers.scoring.editable import Batch, EditableModel, without_labels

Tensors = dict[str, Tensor]
"""Weights that a group learnt, by name: ``bank.<k>.<name>`` of its k-th bank, and
``layer.<i>.<name>`` of layer i of the unshared model."""


CACHES = ("past_key_values", "past_key_value", "cache_position")
"""Keywords by which layers get a cache, which a pass over recorded inputs has none of."""


BATCHES_A_STEP = 2
"""Recorded batches of an optimiser step."""


@dataclass(frozen=True)
class Region:
    """Modules of the unshared model, by path, between whose input and output a group's own module
    stands in; it is `student` in the model shared by the group alone."""

    first: str
    last: str
    student: str


@dataclass
class Passage:
    """Arguments of a region's first module and output of its last one, by batch."""

    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


def distil_locally(
    editable: EditableModel, groups: Sequence[Group], batches: Sequence[Batch], settings: LocalStart
) -> dict[Group, Tensors]:
    """Let each of `groups`, bound to the model, learn on `batches`; return its weights.

    Groups without new weights, such as dropped layers, are left out.
    """
    regions = {group: list(_regions(editable.stacks[group.stack or ""], group)) for group in groups}
    passages = _recorded(
        editable.model, [r for own in regions.values() for r in own], batches, editable.options
    )
    return {
        group: _taught(editable, group, own, passages, settings)
        for group, own in regions.items()
        if own
    }


def start_from_(shared: PreTrainedModel, taught: Mapping[Group, Tensors]) -> None:
    """Load, in place, what the groups of `shared`'s plan have learnt.

    Each has learnt alone. A bank or a layer that another group narrows or shares, too, has other
    tensors, and stays as it was.
    """
    bank = 0
    state, stacks = dict(shared.named_parameters()), find_stacks(shared)
    for group in shared.sharing.plan.groups:
        stack = stacks[group.stack or ""]
        order = shared.sharing.orders[stack.name]
        apart: dict[tuple[str, str], Tensors] = defaultdict(dict)
        for name, values in taught.get(group, {}).items():
            kind, number, rest = name.split(".", 2)
            if kind == "bank":
                folders = [f"{BANKS}.{bank + int(number)}"]
            else:
                places = [i for i, layer in enumerate(order) if layer == int(number)]
                folders = [stack.layer_path(place) for place in places]
            paths = [f"{folder}.{rest}" for folder in folders]
            own = [path for path in paths if path in state]  # not those of a repeated layer
            apart[kind, number] |= dict.fromkeys(own or paths, values)
        for together in apart.values():
            _load_if_all_fit_(state, together)
        bank += len(banks_of(group))


def _load_if_all_fit_(state: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy `values` into the tensors of `state` unless one is missing or of another shape."""
    if all(path in state and state[path].shape == own.shape for path, own in values.items()):
        with torch.no_grad():
            for path, own in values.items():
                state[path].copy_(own)


def _regions(stack: Stack, group: Group) -> Iterator[Region]:
    if not group.learns_locally:
        return
    if isinstance(group.form, Merge):
        alone = SharingPlan(groups=(group,))
        order = alone.order(stack.name, len(stack.layers))
        (running,) = arrangements({stack.name: stack}, {stack.name: order})
        places = running.places(stack.name)
        for stays, span in alone.spans(stack.name).items():
            student = f"{stack.path}.{places[order.index(stays)]}"
            yield Region(stack.layer_path(span[0]), stack.layer_path(span[-1]), student)
        return
    inner = _inner_path(stack, group)
    for layer in sorted(map(int, group.layers)):
        path = f"{stack.layer_path(layer)}{inner}"
        yield Region(path, path, path)


def _inner_path(stack: Stack, group: Group) -> str:
    """The submodule that holds all matrices of the group's parts and no others, as ``.mlp``; empty
    where only the whole layer does."""
    if group.parts == (EXPERTS,) and isinstance(group.form, Narrow):
        return f".{stack.mixtures[int(group.layers[0])][0].path}"
    own = [slot.path.split(".") for slot in stack.slots if set(slot.roles) & set(group.parts)]
    others = [slot.path for slot in stack.slots if not set(slot.roles) & set(group.parts)]
    if not own or {*WHOLE, "biases"} & set(group.parts):
        return ""
    common: list[str] = []
    for words in zip(*(path[:-1] for path in own), strict=False):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    inner = ".".join(common)
    if not inner or any(path.startswith(f"{inner}.") for path in others):
        return ""
    return f".{inner}"


def _recorded(
    model: PreTrainedModel,
    regions: Sequence[Region],
    batches: Sequence[Batch],
    options: Mapping[str, Any],
) -> dict[str, Passage]:
    """Arguments and outputs of all modules that regions name, in one pass over the batches."""
    passages = {path: Passage() for region in regions for path in (region.first, region.last)}
    handles = [
        model.get_submodule(path).register_forward_hook(_keep(passage), with_kwargs=True)
        for path, passage in passages.items()
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                model(**without_labels(batch), **options)
    finally:
        for handle in handles:
            handle.remove()
    return passages


def _keep(passage: Passage) -> Any:
    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        passage.arguments.append((args, {k: v for k, v in kwargs.items() if k not in CACHES}))
        passage.outputs.append(_hidden(output))

    return hook


def _hidden(output: object) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _taught(
    editable: EditableModel,
    group: Group,
    regions: Sequence[Region],
    passages: Mapping[str, Passage],
    settings: LocalStart,
) -> Tensors:
    shared, _ = editable.shared(SharingPlan(groups=(group,)))
    students = [shared.get_submodule(region.student) for region in regions]
    learning = _learning(shared, group, students)
    optimiser = torch.optim.AdamW(learning.values(), lr=settings.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.local_steps)
    order = torch.Generator().manual_seed(0)
    count = len(passages[regions[0].first].arguments)
    for _ in range(settings.local_steps):
        for index in torch.randint(count, (BATCHES_A_STEP,), generator=order).tolist():
            losses = (
                _loss(student, passages[region.first], passages[region.last], index)
                for student, region in zip(students, regions, strict=True)
            )
            (sum(losses) / BATCHES_A_STEP).backward()  # type: ignore[union-attr]
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad(set_to_none=True)
    return {name: values.detach().clone() for name, values in learning.items()}


def _loss(student: nn.Module, first: Passage, last: Passage, index: int) -> Tensor:
    args, kwargs = first.arguments[index]
    wanted = last.outputs[index]
    return (_hidden(student(*args, **kwargs)) - wanted).square().mean() / wanted.var()


def _learning(
    shared: PreTrainedModel, group: Group, students: Sequence[nn.Module]
) -> dict[str, nn.Parameter]:
    """The group's banks and, of the layers it changed, what its parts own, by their names."""
    found: dict[str, nn.Parameter] = {}
    for index, bank in enumerate(shared.banks):
        found |= {f"bank.{index}.{name}": p for name, p in bank.named_parameters()}
    inside = {id(p) for student in students for p in student.parameters()}
    stack = find_stacks(shared)[group.stack or ""]
    order = shared.sharing.orders[stack.name]
    whole = isinstance(group.form, Merge)
    paths = {slot.path for slot in stack.slots if whole or set(slot.roles) & set(group.parts)}
    for place, layer in enumerate(stack.layers):
        narrowed = EXPERTS in group.parts and isinstance(group.form, Narrow)
        mixed = {n for m in stack.mixtures[place] if narrowed for n, _ in m.tensors}
        for name, parameter in layer.named_parameters():
            in_part = whole or name in mixed or any(name.startswith(f"{path}.") for path in paths)
            if id(parameter) in inside and in_part:
                found[f"layer.{order[place]}.{name}"] = parameter
    return {name: p.requires_grad_() for name, p in found.items()}
