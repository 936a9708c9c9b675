"""Makes a model share its weights by a plan, and back.

>>> model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
>>> share_(model, SharingPlan.range(2, 7, 0.7))        # doctest: +SKIP
"""

import copy
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from spaces.errors import ModelError, PlanError
from spaces.inits import INITS
from spaces.plan import Group, SharingPlan, write_parts
from trainers.alignment import ORDERS, align_, can_align
from trainers.calibration import Activations
from trainers.checkpoints import Sharing, shared_class, unshared_class
from trainers.forms import BUILDERS, Matrices, atoms, bank, basis, lowrank
from trainers.modules import SharedLinear, SharedNorm
from trainers.schedules import SoftLinear
from trainers.structure import Slot, Stack, family, find_stacks, is_norm, weight_out_in
from trainers.units import shared_units

assert bank and lowrank and basis and atoms, "importing a form's file registers it"

LAYER_INDEX = "layer_idx"
DEPTHS = ("num_hidden_layers", "num_layers")
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")
STAGE = re.compile(r"stage(\d+)$")


def share_(
    model: PreTrainedModel,
    plan: SharingPlan,
    activations: Activations | None = None,
    *,
    schedule: str | None = None,
) -> PreTrainedModel:
    """Shares `model`'s weights in place as `plan` says, and returns it.

    `activations` (see :func:`record_activations`) tell groups whose units are chosen and matched,
    and forms that are calibrated, what happens on real inputs; without them the weights alone
    decide. With a `schedule` (see :mod:`trainers.schedules`) layers keep their own weights beside
    until ``harden_``.
    Each group's weights lie once in ``model.banks``; layers keep what is private. Works on
    the meta device too, where nothing but shapes is made.

    Raises :class:`PlanError` if the plan does not fit the model and :class:`ModelError` if
    the model has no stack of layers or is shared already.
    """
    if is_shared(model):
        raise ModelError(
            f"{type(model).__name__} is shared already, by the plan {model.sharing.plan}",
            "call materialize_(model) first",
        )
    stacks = find_stacks(model)
    bound = plan.bound({name: stack.shape for name, stack in stacks.items()})
    for group in bound.groups:
        _refuse_unfit(stacks[group.stack or ""], group, model.config)
    sharing = Sharing(bound, copy.deepcopy(model.config.to_dict()))
    model.banks = nn.ModuleList()
    for group in bound.groups if not _is_shape_only(model) else ():
        if group.units != "first" and "units" in group.form.heeds:
            _align(stacks[group.stack or ""], group, bound, activations)
    for group in bound.groups:
        if not group.form.removes_layers:
            stack = stacks[group.stack or ""]
            model.banks.append(_share_group(stack, group, activations or {}, schedule))
    for group in bound.groups:
        if group.form.removes_layers:
            _remove_layers(model, stacks[group.stack or ""], {int(i) for i in group.layers})
    model.sharing = sharing
    model.__class__ = shared_class(type(model))  # type: ignore[arg-type]
    return model


def share_params(
    model: PreTrainedModel, first: int, last: int, ratio: float, **group: str
) -> PreTrainedModel:
    """Layers `first` to `last` (0-based, inclusive) share the fraction `ratio` (0..1)."""
    return share_(model, SharingPlan.range(first, last, ratio, **group))


def is_shared(model: nn.Module) -> bool:
    """Whether `share_` was called on this model and `materialize_` not since."""
    return isinstance(getattr(model, "sharing", None), Sharing)


def materialize_(model: PreTrainedModel) -> PreTrainedModel:
    """Turns every shared layer back into a dense one of the same function, in place.

    Layers that the plan removed stay removed.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SharedLinear | SharedNorm):
                setattr(parent, name, child.materialize().train(child.training))
    if is_shared(model):
        del model.banks, model.sharing
        model.__class__ = unshared_class(type(model))
    return model


def _refuse_unfit(stack: Stack, group: Group, config: PreTrainedConfig) -> None:
    """Raises :class:`PlanError`, before anything is changed, for what the stack cannot do."""
    if group.form.removes_layers:
        listed = any(_lists_layers(config, attribute, stack) for attribute in PER_LAYER)
        _refuse_drop(stack, {int(index) for index in group.layers}, listed)
        return
    roles = list(dict.fromkeys(role for slot in stack.slots for role in slot.roles))
    if not set(roles) & set(group.parts):
        raise PlanError(
            f"stack {stack.name!r} has none of the parts {write_parts(group.parts)}",
            f"it has {', '.join(roles) or 'no matrices of a known kind'}",
        )
    for slot in stack.slots:
        named = [role for role in slot.roles if role in group.parts]
        if named and len(named) < len(slot.roles):
            raise PlanError(
                f"{slot.path} of stack {stack.name!r} holds {', '.join(slot.roles)} in one "
                f"matrix, but the plan's parts name only {', '.join(named)}",
                "name all of them in parts, or none",
            )


def _refuse_drop(stack: Stack, removed: set[int], listed: bool) -> None:
    """Layers move up when others go; each must be of the kind that its new place has.

    With `listed` the configuration says which kind stands where, and is told of the move.
    """
    kept = [index for index in range(len(stack.layers)) if index not in removed]
    if not kept:
        raise PlanError(
            f"a plan must leave a layer, but stack {stack.name!r} would lose all "
            f"{len(stack.layers)}",
            "drop fewer layers",
        )
    kinds = [_traits(layer, attributes=not listed) for layer in stack.layers]
    for place, index in enumerate(kept):
        differing = kinds[place] ^ kinds[index]
        if differing:
            raise PlanError(
                f"layer {index} of stack {stack.name!r} cannot take the place of layer {place}, "
                f"because only one of them has {min(differing, key=_tensors_first)}",
                f"keep layer {place}, drop others",
            )


def _traits(layer: nn.Module, *, attributes: bool) -> set[str]:
    """Names of the layer's tensors, and its whole-number settings, such as Swin's shift."""
    return {name for name, _ in layer.named_parameters()} | {
        f"{path}.{name}={value}".lstrip(".")
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if attributes and isinstance(value, int) and name != LAYER_INDEX
    }


def _tensors_first(trait: str) -> tuple[bool, str]:
    return "=" in trait, trait


def _lists_layers(config: PreTrainedConfig, attribute: str, stack: Stack) -> bool:
    values = getattr(config, attribute, None)
    return isinstance(values, list) and len(values) == len(stack.layers)


def _is_shape_only(model: PreTrainedModel) -> bool:
    return next(model.parameters()).is_meta


def _align(stack: Stack, group: Group, plan: SharingPlan, activations: Activations | None) -> None:
    """Permutes the units of each family that only this group shares."""
    families: dict[str, list[Slot]] = defaultdict(list)
    for slot in stack.slots:
        families[family(slot.path)].append(slot)
    for slots in families.values():
        roles = {role for slot in slots for role in slot.roles}
        others = [
            other
            for other in plan.groups
            if other is not group
            and other.stack == group.stack
            and set(other.layers) & set(group.layers)
            and set(other.parts) & roles
        ]
        if roles & set(group.parts) and not others and can_align(stack, slots):
            shared = shared_units(slots[0], group.form.share())
            indices = [int(index) for index in group.layers]
            align_(stack, indices, slots, ORDERS[group.units], shared, activations)


def _share_group(
    stack: Stack, group: Group, activations: Activations, schedule: str | None
) -> nn.ModuleDict:
    entries = nn.ModuleDict()
    layers = [stack.layers[int(index)] for index in group.layers]
    slots = [slot for slot in stack.slots if slot.role in group.parts]
    for slot in slots:
        modules = [layer.get_submodule(slot.path) for layer in layers]
        matrices = Matrices(
            slot,
            [weight_out_in(module).detach() for module in modules],
            [None if module.bias is None else module.bias.detach() for module in modules],
            INITS[group.init],
            "biases" in group.parts,
            isinstance(modules[0], Conv1D),
            _inputs(activations, stack, group, slot),
        )
        with matrices.weights[0].device:
            readers = BUILDERS[group.form.name](group.form, matrices, entries, _key(slot.path))
        _replace(layers, slot.path, _softened(readers, matrices.weights, schedule))
    if "norms" in group.parts:
        _share_norms(layers, stack.norms, group, entries)
    return entries


def _inputs(
    activations: Activations, stack: Stack, group: Group, slot: Slot
) -> list[Tensor] | None:
    """What entered the slot's matrices, for forms whose start goes by it."""
    keys = [(stack.name, int(index), slot.path) for index in group.layers]
    if not group.form.calibrated or not all(key in activations for key in keys):
        return None
    return [activations[key] for key in keys]


def _softened(
    readers: list[SharedLinear], weights: Sequence[Tensor], schedule: str | None
) -> Sequence[nn.Module]:
    if schedule is None:
        return readers
    return [SoftLinear(r, own, schedule) for r, own in zip(readers, weights, strict=False)]


def _share_norms(
    layers: list[nn.Module], paths: Iterable[str], group: Group, entries: nn.ModuleDict
) -> None:
    for path in paths:
        having = [layer for layer in layers if is_norm(path, layer.get_submodule(path))]
        norms = [layer.get_submodule(path) for layer in having]
        if len(norms) < 2:
            continue
        entry = copy.deepcopy(norms[0])
        for name, parameter in entry.named_parameters():
            starts = [norm.get_parameter(name).detach() for norm in norms]
            parameter.data = INITS[group.init](starts).clone()
        entries[_key(path)] = entry
        _replace(having, path, [SharedNorm(entries, _key(path)) for _ in norms])


def _key(path: str) -> str:
    return path.replace(".", "_")


def _replace(layers: list[nn.Module], path: str, readers: Iterable[nn.Module]) -> None:
    parent, _, name = path.rpartition(".")
    for layer, reader in zip(layers, readers, strict=False):
        setattr(layer.get_submodule(parent), name, reader.train(layer.training))


def _remove_layers(model: PreTrainedModel, stack: Stack, removed: set[int]) -> None:
    kept = [index for index in range(len(stack.layers)) if index not in removed]
    layers = nn.ModuleList(stack.layers[index] for index in kept)
    parent, _, name = stack.path.rpartition(".")
    setattr(model.get_submodule(parent), name, layers)
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, LAYER_INDEX):
                setattr(module, LAYER_INDEX, index)
    _set_depth(model, stack, kept)


def _set_depth(model: PreTrainedModel, stack: Stack, kept: list[int]) -> None:
    """Tells every configuration between the model and the stack which layers are left."""
    words = stack.path.split(".")
    holders = [model.get_submodule(".".join(words[:i])) for i in range(len(words))]
    configs = {id(holder.config): holder.config for holder in holders if hasattr(holder, "config")}
    side = next((word for word in ("decoder", "encoder") if word in words), "")
    for config in configs.values():
        own = DEPTHS if config is not model.config else ()
        for attribute in _depth_attributes(config, side, stack) + own:
            if getattr(config, attribute, None) == len(stack.layers):
                setattr(config, attribute, len(kept))
        for attribute in PER_LAYER:
            if _lists_layers(config, attribute, stack):
                values = getattr(config, attribute)
                setattr(config, attribute, [values[index] for index in kept])
        _set_stage_depth(config, stack, len(kept))


def _depth_attributes(config: PreTrainedConfig, side: str, stack: Stack) -> tuple[str, ...]:
    """What this configuration calls the stack's depth: its side's own word, or the general one."""
    if STAGE.match(stack.name):
        return ()
    own = [name for name in (f"{side}_layers", f"num_{side}_layers") if hasattr(config, name)]
    return tuple(own) or DEPTHS


def _set_stage_depth(config: PreTrainedConfig, stack: Stack, depth: int) -> None:
    stage, depths = STAGE.match(stack.name), getattr(config, "depths", None)
    if stage and depths:
        number = int(stage[1])
        config.depths = [*depths[:number], depth, *depths[number + 1 :]]
