"""Makes a model share its weights by a plan, and back.

>>> model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
>>> share_(model, SharingPlan.range(2, 7, 0.7))        # doctest: +SKIP
"""

import copy
from collections import defaultdict
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from spaces.errors import ModelError, PlanError
from spaces.inits import INITS
from spaces.plan import Group, SharingPlan, write_parts
from trainers.alignment import ORDERS, align_, can_align
from trainers.calibration import Activations
from trainers.checkpoints import Sharing, shared_class, unshared_class
from trainers.forms import BUILDERS, Matrices, bank
from trainers.modules import SharedLinear, SharedNorm
from trainers.structure import Slot, Stack, family, find_stacks, weight_out_in
from trainers.units import shared_units

assert bank, "importing a form's file registers it"


def share_(
    model: PreTrainedModel, plan: SharingPlan, activations: Activations | None = None
) -> PreTrainedModel:
    """Shares `model`'s weights in place as `plan` says, and returns it.

    `activations` (see :func:`record_activations`) tell groups whose units are chosen and matched
    what the units do on real inputs; without them the weights alone decide.
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
    sharing = Sharing(bound, copy.deepcopy(model.config.to_dict()))
    model.banks = nn.ModuleList()
    for group in bound.groups if not _is_shape_only(model) else ():
        if group.units != "first":
            _align(stacks[group.stack or ""], group, bound, activations)
    for group in bound.groups:
        if not group.form.removes_layers:
            model.banks.append(_share_group(stacks[group.stack or ""], group))
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


def _is_shape_only(model: PreTrainedModel) -> bool:
    return next(model.parameters()).is_meta


def _align(stack: Stack, group: Group, plan: SharingPlan, activations: Activations | None) -> None:
    """Permutes the units of each family that only this group shares."""
    families: dict[str, list[Slot]] = defaultdict(list)
    for slot in stack.slots:
        families[family(slot.path)].append(slot)
    for slots in families.values():
        roles = {slot.role for slot in slots}
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


def _share_group(stack: Stack, group: Group) -> nn.ModuleDict:
    entries = nn.ModuleDict()
    layers = [stack.layers[int(index)] for index in group.layers]
    slots = [slot for slot in stack.slots if slot.role in group.parts]
    if not slots:
        raise PlanError(
            f"stack {stack.name!r} has none of the parts {write_parts(group.parts)}",
            f"it has {', '.join(dict.fromkeys(slot.role for slot in stack.slots))}",
        )
    for slot in slots:
        modules = [layer.get_submodule(slot.path) for layer in layers]
        matrices = Matrices(
            slot,
            [weight_out_in(module).detach() for module in modules],
            [None if module.bias is None else module.bias.detach() for module in modules],
            INITS[group.init],
            "biases" in group.parts,
            isinstance(modules[0], Conv1D),
        )
        readers = BUILDERS[group.form.name](group.form, matrices, entries, _key(slot.path))
        _replace(layers, slot.path, readers)
    if "norms" in group.parts:
        _share_norms(layers, stack.norms, group, entries)
    return entries


def _share_norms(
    layers: list[nn.Module], paths: Iterable[str], group: Group, entries: nn.ModuleDict
) -> None:
    for path in paths:
        norms = [layer.get_submodule(path) for layer in layers]
        entry = copy.deepcopy(norms[0])
        for name, parameter in entry.named_parameters():
            starts = [norm.get_parameter(name).detach() for norm in norms]
            parameter.data = INITS[group.init](starts).clone()
        entries[_key(path)] = entry
        _replace(layers, path, [SharedNorm(entries, _key(path)) for _ in norms])


def _key(path: str) -> str:
    return path.replace(".", "_")


def _replace(layers: list[nn.Module], path: str, readers: Iterable[nn.Module]) -> None:
    parent, _, name = path.rpartition(".")
    for layer, reader in zip(layers, readers, strict=False):
        setattr(layer.get_submodule(parent), name, reader.train(layer.training))


def _remove_layers(model: PreTrainedModel, stack: Stack, removed: set[int]) -> None:
    if len(removed) >= len(stack.layers):
        raise PlanError(
            f"a plan must leave a layer, but stack {stack.name!r} would lose all "
            f"{len(stack.layers)}",
            "drop fewer layers",
        )
    kept = [layer for i, layer in enumerate(stack.layers) if i not in removed]
    parent, _, name = stack.path.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(kept))
    for index, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    _set_depth(model, stack, kept=[i for i in range(len(stack.layers)) if i not in removed])


def _set_depth(model: PreTrainedModel, stack: Stack, *, kept: list[int]) -> None:
    own = {
        "encoder": ("encoder_layers", "num_layers"),
        "decoder": ("decoder_layers", "num_decoder_layers"),
    }.get(stack.name, ("num_hidden_layers",))
    for attribute in own:
        if getattr(model.config, attribute, None) == len(stack.layers):
            setattr(model.config, attribute, len(kept))
    types = getattr(model.config, "layer_types", None)
    if types and len(types) == len(stack.layers):
        model.config.layer_types = [types[index] for index in kept]
