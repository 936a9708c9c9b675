"""Make a model share its weights by a plan, and undo it.

>>> model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
>>> share_(model, SharingPlan.range(2, 7, 0.7))        # doctest: +SKIP
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sharetune.spaces.assignments import Assignment
from sharetune.spaces.errors import ModelError
from sharetune.spaces.forms import Merge, Narrow
from sharetune.spaces.group import Group
from sharetune.spaces.inits import INITS, start_of
from sharetune.spaces.parts import EXPERTS
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.models.alignment import ORDERS, align_
from sharetune.trainers.models.arrangement import Arrangement, arrangements
from sharetune.trainers.models.calibration import Activations
from sharetune.trainers.models.compensation import Recorded, as_recorded
from sharetune.trainers.models.feasibility import (
    LAYER_INDICES,
    check_feasible,
    experts_error,
    removal_error,
    saved_names,
)
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.freezing import keep_frozen_
from sharetune.trainers.models.layer_inputs import arrange_inputs_
from sharetune.trainers.models.layer_settings import arrange_settings_
from sharetune.trainers.models.mixtures import are_experts, reason_to_keep
from sharetune.trainers.models.modules import (
    SharedExperts,
    SharedModule,
    SharedNorm,
    copied,
    repeated,
    resolved,
)
from sharetune.trainers.models.narrowing import narrow_
from sharetune.trainers.models.ordinary import SAME_OUTPUT, largest_difference, ordinary, uniform
from sharetune.trainers.models.permuting import Family, movable_families
from sharetune.trainers.models.shared_cache import share_caches_
from sharetune.trainers.models.shared_model import Sharing, shared_class, unshared_class
from sharetune.trainers.models.softening import SCHEDULES
from sharetune.trainers.models.structure import (
    Slot,
    Stack,
    find_stacks,
    is_norm,
    weight_out_in,
)
from sharetune.trainers.models.units import shared_units

Place = tuple[str, tuple[int, ...]]
"""The path of a list of layers, and the places there that a stack's layers are at."""


def share_(
    model: PreTrainedModel,
    plan: SharingPlan,
    activations: Activations | None = None,
    *,
    schedule: str | None = None,
) -> PreTrainedModel:
    """Share `model`'s weights in place as `plan` says, and return it.

    `activations` (see :func:`record_activations`) are used by groups that choose and match units
    and by calibrated forms; without them the weights alone decide. With a `schedule`
    (`softening.py`) the plan takes effect gradually in training, until ``harden_``. The weights of
    each group are stored once in ``model.banks``; layers keep what is private. Works on the meta
    device too, where only shapes are made.

    Raises :class:`PlanError` if the plan does not fit the model and :class:`ModelError` if the
    model has no stack of layers or is shared already.
    """
    _refuse_shared(model)
    stacks = find_stacks(model)
    shapes = {name: stack.shape for name, stack in stacks.items()}
    bound = plan.bound(shapes)
    check_feasible(stacks, bound, model.config)
    orders = {name: bound.order(name, len(stack.layers)) for name, stack in stacks.items()}
    lists = arrangements(stacks, orders)
    sharing = Sharing(bound, copy.deepcopy(model.config.to_dict()), orders, shapes)
    recorded = as_recorded(activations or {})
    stacks, origins, seen = _change_layers(model, stacks, bound, recorded)
    places = _arrange(model, lists)
    model.banks = nn.ModuleList()
    for group in bound.groups:
        stack = stacks[group.stack or ""]
        layers, order = _layers_at(model, *places[stack.name]), orders[stack.name]
        for positions in _read_together(group, layers, order, origins[group]):
            model.banks.append(_share_bank(stack, group, positions, seen, schedule))
    share_caches_(model)
    settled = copy.deepcopy(model.config.to_dict())
    model.sharing = replace(sharing, settled=settled, places=_needed(stacks, places))
    model.__class__ = shared_class(type(model))  # type: ignore[arg-type]
    return model


def _needed(stacks: Mapping[str, Stack], places: dict[str, Place]) -> dict[str, Place]:
    """Return the places, or none where the stacks are found in the model without them."""
    found = all(stack.is_whole and len(places[name][1]) > 1 for name, stack in stacks.items())
    return {} if found else places


def _refuse_shared(model: PreTrainedModel) -> None:
    if is_shared(model):
        raise ModelError(
            f"{type(model).__name__} is shared already, by the plan {model.sharing.plan}",
            "call materialize_(model) first",
        )


def _change_layers(
    model: PreTrainedModel,
    stacks: dict[str, Stack],
    plan: SharingPlan,
    recorded: Recorded,
) -> tuple[dict[str, Stack], dict[Group, list["Origin"]], Recorded]:
    """Merge, narrow and align layers in place, before any shares.

    Returns the stacks as they then are, the origins of each group's banks, and what was recorded as
    the units are then ordered.
    """
    moving, seen = _movable(model, stacks, plan, recorded), copy.copy(recorded)
    with_weights = () if _is_shape_only(model) else plan.groups
    for group in with_weights:
        if isinstance(group.form, Merge) and group.init == "mean":
            _start_from_mean(stacks[group.stack or ""], group, plan, seen, moving)
    narrowed = [group for group in plan.groups if isinstance(group.form, Narrow)]
    if narrowed:
        seen |= narrow_(model, stacks, narrowed, seen)
        stacks = find_stacks(model)
    origins = {group: _origins(stacks[group.stack or ""], group, seen) for group in plan.groups}
    for group in with_weights:
        if group.matches_units and group.form.shares:
            stack = stacks[group.stack or ""]
            seen |= _align(stack, group, plan, origins[group], seen, moving)
    return stacks, origins, seen


def share_params(
    model: PreTrainedModel, first: int, last: int, ratio: float, **group: object
) -> PreTrainedModel:
    """Make layers `first` to `last` (0-based, inclusive) share the fraction `ratio` (0..1)."""
    return share_(model, SharingPlan.range(first, last, ratio, **group))


def is_shared(model: nn.Module) -> bool:
    """Return whether the model is shared now, by `share_` and without `materialize_` since."""
    return isinstance(getattr(model, "sharing", None), Sharing)


def materialize_(model: PreTrainedModel) -> PreTrainedModel:
    """Turn every shared or quantised layer back into a dense one of the same function, in place.

    Layers that the plan removed stay removed, narrowed ones stay narrow, and repeated layers become
    layers of their own. Layers that reuse another's output have no dense form: they stay as they
    are, and the model stays shared, by a plan of these groups, and those that narrow layers, only.

    Raises :class:`ModelError`, before anything is changed, if layers were removed or repeated and
    an ordinary model of that depth would compute something else.
    """
    if is_shared(model) and not _is_shape_only(model) and _is_deeper_or_shallower(model):
        refuse_unordinary(model)
    return materialize_unchecked_(model)


def _is_deeper_or_shallower(model: PreTrainedModel) -> bool:
    sharing = model.sharing
    return any(list(o) != list(range(sharing.shapes[n].depth)) for n, o in sharing.orders.items())


def refuse_unordinary(model: PreTrainedModel) -> None:
    """Raise :class:`ModelError` unless the configuration builds what a shared model computes.

    A model is built from it, given the materialised weights, and compared on a made-up batch.
    """
    dense = materialize_unchecked_(copy.deepcopy(model))
    if is_shared(dense):
        return
    try:
        if not uniform(dense):
            return
        difference = largest_difference(dense, ordinary(dense))
    except Exception as error:  # whatever a foreign configuration or model raises
        reason = f"it cannot be built: {str(error).splitlines()[0] if str(error) else error!r}"
    else:
        if difference <= SAME_OUTPUT:
            return
        reason = f"it computes something else: outputs differ by {difference:.2g} of the largest"
    raise ModelError(
        f"layers of {unshared_class(type(model)).__name__} were removed or repeated, and there is "
        f"no ordinary model of that depth: {reason}",
        "save the shared model itself, or export it as shared or onnx",
    )


def materialize_unchecked_(model: PreTrainedModel) -> PreTrainedModel:
    """Do what :func:`materialize_` does, also where no ordinary model computes the same."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "materialize"):
                setattr(parent, name, child.materialize().train(child.training))
    if is_shared(model):
        _remove_banks(model)
    return model


def _remove_banks(model: PreTrainedModel) -> None:
    groups = model.sharing.plan.groups
    kept = [g for g in groups if not g.form.materializes or isinstance(g.form, Narrow)]
    if all(g.form.materializes for g in kept):
        del model.banks, model.sharing
        model.__class__ = unshared_class(type(model))
        return
    model.banks = nn.ModuleList()
    orders = model.sharing.orders
    plan = SharingPlan(groups=tuple(b for g in kept for b in _by_positions(g, orders)))
    unlooped = {name: tuple(range(len(order))) for name, order in orders.items()}
    shapes = {n: shape.at(orders[n]) for n, shape in model.sharing.shapes.items()}
    config = model.config.to_dict()
    settled, places = copy.deepcopy(config), model.sharing.places
    model.sharing = Sharing(plan, config, unlooped, shapes, settled=settled, places=places)


def _by_positions(group: Group, orders: Mapping[str, Sequence[int]]) -> Iterator[Group]:
    """Yield the group's banks as groups over the positions at which their layers run."""
    for own in group.readers():
        places = tuple(i for i, layer in enumerate(orders[group.stack or ""]) if layer in own)
        settled = {"assign": Assignment(), "times": 1, "order": "block"}
        yield group.model_copy(update={"layers": places} | settled)


def banks_of(group: Group) -> list[tuple[int, ...]]:
    """Return the layers of each bank that the group stores."""
    return group.readers() if group.form.shares and not group.only_loops else []


def _is_shape_only(model: PreTrainedModel) -> bool:
    return next(model.parameters()).is_meta


@dataclass(frozen=True)
class Origin:
    """The initial value of a bank.

    It starts as `init` says. If that names a layer that does not read the bank, `copy` is a copy of
    the layer and `number` its layer number in the recorded activations.
    """

    init: str | int
    copy: nn.Module | None = None
    number: int = -1


def _origins(stack: Stack, group: Group, seen: dict[Any, Tensor]) -> list[Origin]:
    """Return the origin of each of the group's banks, before anything is changed."""
    origins = []
    for own, init in zip(banks_of(group), group.inits() if banks_of(group) else (), strict=True):
        if isinstance(init, str) or init in own:
            origins.append(Origin(init))
            continue
        # a key that no layer has: negative, and unique by the bank's first layer
        number = -1 - own[0]
        seen |= {(s, number, p): t for (s, i, p), t in seen.items() if (s, i) == (stack.name, init)}
        origins.append(Origin(init, copy.deepcopy(stack.layers[init]), number))
    return origins


def _movable(
    model: PreTrainedModel, stacks: Mapping[str, Stack], plan: SharingPlan, recorded: Recorded
) -> set[Family]:
    """Return the families whose units can be permuted, if the plan permutes or removes any.

    They are tried once for the model whose activations were `recorded`. Raises :class:`PlanError`
    if the plan removes units of a family that cannot.
    """
    narrow = [group for group in plan.groups if isinstance(group.form, Narrow)]
    if _is_shape_only(model) or not (narrow or any(g.matches_units for g in plan.groups)):
        return set()
    if recorded.movable is None:
        recorded.movable = movable_families(model, stacks)
    moving = recorded.movable
    for group in narrow:
        stack = stacks[group.stack or ""]
        if EXPERTS in group.parts:
            _refuse_bound_experts(stack, group, recorded)
        for prefix, slots in stack.families(int(group.layers[0])).items():
            if slots[0].role in group.parts and (stack.name, prefix) not in moving:
                raise removal_error(stack, slots, "leave that part out of parts")
    return moving


def _refuse_bound_experts(stack: Stack, group: Group, recorded: Recorded) -> None:
    """Refuse to remove experts of a mixture that then computes something else."""
    for layer in map(int, group.layers):
        (mixture,) = stack.mixtures[layer]
        key = stack.name, mixture
        if key not in recorded.keeping:
            recorded.keeping[key] = reason_to_keep(stack.layers[layer], mixture)
        if recorded.keeping[key]:
            raise experts_error(stack, layer, recorded.keeping[key])


def _start_from_mean(
    stack: Stack,
    group: Group,
    plan: SharingPlan,
    seen: dict[tuple[str, int, str], Tensor],
    moving: set[Family],
) -> None:
    """Give the layer that takes the place of the group's others the mean of all, in place."""
    seen |= _align(stack, group, plan, [], seen, moving) if group.matches_units else {}
    ((staying, span),) = group.spans().items()
    layers = [stack.layers[index] for index in span]
    with torch.no_grad():
        for name, parameter in stack.layers[staying].named_parameters():
            parameter.copy_(INITS["mean"]([layer.get_parameter(name) for layer in layers]))


def _align(
    stack: Stack,
    group: Group,
    plan: SharingPlan,
    origins: Sequence[Origin],
    activations: Activations,
    moving: set[Family],
) -> dict[tuple[str, int, str], Tensor]:
    """Permute the units of each family that only this group shares; return their activations."""
    permuted: dict[tuple[str, int, str], Tensor] = {}
    layers = {int(index): stack.layers[int(index)] for index in group.layers}
    layers |= {origin.number: origin.copy for origin in origins if origin.copy is not None}
    for prefix, slots in stack.families(int(group.layers[0])).items():
        roles = {role for slot in slots for role in slot.roles}
        others = [
            other
            for other in plan.groups
            if other is not group
            and other.stack == group.stack
            and other.form.shares
            and set(other.layers) & set(group.layers)
            and set(other.parts) & roles
        ]
        if roles & set(group.parts) and not others and (stack.name, prefix) in moving:
            shares = map(group.form.share, range(len(layers)))
            shared = [shared_units(slots[0], share) for share in shares]
            order = ORDERS[group.units]
            permuted |= align_(stack.name, layers, slots, order, shared, activations)
    return permuted


@dataclass(frozen=True)
class Positions:
    """The positions `readers` of a stack's `layers`, which read one bank.

    `order` gives the unshared model's layer at every position. The copy that the bank starts from,
    if any, comes after the readers.
    """

    layers: nn.ModuleList
    order: Sequence[int]
    readers: Sequence[int]
    origin: Origin

    @property
    def numbers(self) -> list[int]:
        """Return the layer number of each in the recorded activations."""
        copied = [] if self.origin.copy is None else [self.origin.number]
        return [self.order[i] for i in self.readers] + copied

    @property
    def start(self) -> Callable[[Sequence[Tensor]], Tensor]:
        """Return the function that makes the bank's tensor from the layers' tensors."""
        return start_of(self.origin.init, [self.order[i] for i in self.readers])

    def modules(self, path: str) -> list[nn.Module]:
        """Return the modules at `path` of the layers."""
        standing = [self.layers.get_submodule(f"{i}.{path}") for i in self.readers]
        copied = self.origin.copy
        return standing if copied is None else [*standing, copied.get_submodule(path)]

    def replace(self, path: str, readers: Iterable[nn.Module]) -> None:
        """Put `readers` at `path` of the layers, in order."""
        for i, reader in zip(self.readers, readers, strict=False):
            self.layers.set_submodule(f"{i}.{path}", reader.train(self.layers.training))


def _read_together(
    group: Group, layers: nn.ModuleList, order: Sequence[int], origins: Sequence[Origin]
) -> Iterator[Positions]:
    """Yield the positions that read each of the group's banks."""
    for own, origin in zip(banks_of(group), origins, strict=True):
        readers = [place for place, layer in enumerate(order) if layer in own]
        yield Positions(layers, order, readers, origin)


def _share_bank(
    stack: Stack,
    group: Group,
    positions: Positions,
    activations: Activations,
    schedule: str | None,
) -> nn.ModuleDict:
    entries = nn.ModuleDict()
    soft = SCHEDULES[schedule] if schedule and group.form.materializes else None
    form = group.form_of(positions.order[place] for place in positions.readers)
    for slot in stack.layer_slots[positions.order[positions.readers[0]]]:
        if not set(slot.roles) & set(group.parts):
            continue
        modules = positions.modules(slot.path)
        weights = [weight_out_in(module).detach() for module in modules]
        matrices = Matrices(
            slot,
            soft.origins(weights, positions.start) if soft else weights,
            [None if module.bias is None else module.bias.detach() for module in modules],
            positions.start,
            "biases" in group.parts,
            isinstance(modules[0], Conv1D),
            _inputs(activations, stack, group, positions, slot),
        )
        with weights[0].device:
            readers = BUILDERS[form.name](form, matrices, entries, entry_key(slot.path))
        replacing = soft.for_readers(readers, weights) if soft else readers
        keep_frozen_(replacing, entries, entry_key(slot.path), modules)
        positions.replace(slot.path, replacing)
    if "norms" in group.parts:
        _share_whole(positions, stack.norms, entries, is_norm, SharedNorm)
    if EXPERTS in group.parts:
        _share_whole(positions, stack.experts, entries, are_experts, SharedExperts)
    return entries


def _inputs(
    activations: Activations, stack: Stack, group: Group, positions: Positions, slot: Slot
) -> list[Tensor] | None:
    """Return the recorded inputs of the slot's matrices, or None for an uncalibrated form."""
    keys = [(stack.name, number, slot.path) for number in positions.numbers]
    if not group.form.calibrated or not all(key in activations for key in keys):
        return None
    return [activations[key] for key in keys]


def _share_whole(
    positions: Positions,
    paths: Iterable[str],
    entries: nn.ModuleDict,
    is_kind: Callable[[str, nn.Module], bool],
    reader: type[SharedModule],
) -> None:
    """Share the modules of one kind at `paths` whole, of the layers that have them."""
    for path in paths:
        standing = [resolved(module) for module in positions.modules(path)]
        modules = [module for module in standing if is_kind(path, module)]
        if len(modules) < 2:
            continue
        entry = copied(modules[0])
        for name, parameter in entry.named_parameters():
            sources = [module.get_parameter(name) for module in modules]
            parameter.data = positions.start([source.detach() for source in sources]).clone()
            parameter.requires_grad_(any(source.requires_grad for source in sources))
        entries[entry_key(path)] = entry
        having = [
            i
            for i, module in zip(positions.readers, standing, strict=False)
            if any(module is other for other in modules)
        ]
        readers = [reader(entries, entry_key(path)) for _ in modules]
        replace(positions, readers=having).replace(path, readers)


def entry_key(path: str) -> str:
    """Return the name, in its bank, of the matrix or norm at `path` of a layer."""
    return path.replace(".", "_")


def _layers_at(model: PreTrainedModel, path: str, places: Sequence[int]) -> nn.ModuleList:
    """Return the layers at these places of the list at `path`."""
    whole = model.get_submodule(path)
    assert isinstance(whole, nn.ModuleList)
    layers = nn.ModuleList([whole[place] for place in places])
    layers.training = whole.training
    return layers


def _arrange(model: PreTrainedModel, lists: Sequence[Arrangement]) -> dict[str, Place]:
    """Arrange the layers of all lists; return where those of each stack then are."""
    for arrangement in lists:
        _arrange_layers(model, arrangement)
    return {stack.name: (one.path, one.places(stack.name)) for one in lists for stack in one.stacks}


def _arrange_layers(model: PreTrainedModel, arrangement: Arrangement) -> None:
    """Replace a list's layers by those that run: some are dropped, some run again."""
    if not arrangement.is_changed:
        return
    before, order = model.get_submodule(arrangement.path), arrangement.order
    assert isinstance(before, nn.ModuleList)
    layers = nn.ModuleList()
    for place, index in enumerate(order):
        layer = before[index]
        layers.append(_repeated(layer) if index in order[:place] else layer)
    model.set_submodule(arrangement.path, layers)
    for place, layer in enumerate(layers):
        for module in layer.modules():
            for name in LAYER_INDICES:
                if isinstance(vars(module).get(name), int):
                    setattr(module, name, place)
    arrange_inputs_(model, arrangement)
    arrange_settings_(model, arrangement)


def _repeated(layer: nn.Module) -> nn.Module:
    """Return a layer that runs with the tensors of `layer`."""
    kept = [*layer.parameters(), *(m.config for m in layer.modules() if hasattr(m, "config"))]
    again = copy.deepcopy(layer, {id(one): one for one in kept})
    for path, module in list(layer.named_modules()):
        if saved_names(module):
            again.set_submodule(path, repeated(layer, path).train(layer.training))
    return again
