"""Refuse a plan that a model cannot follow, before anything is changed."""

import ast
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import Merge, Narrow
from sharetune.spaces.group import Group
from sharetune.spaces.layers import runs
from sharetune.spaces.parts import EXPERTS, FFN, write_parts
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.models.alignment import can_align
from sharetune.trainers.models.arrangement import Arrangement, Orders, arrangements
from sharetune.trainers.models.kinds import REUSE, STORE, kv_sharing_modes
from sharetune.trainers.models.layer_inputs import INPUT_BY_LAYER, can_lose_layers, input_width
from sharetune.trainers.models.layer_settings import layer_lists
from sharetune.trainers.models.mixtures import counts_experts
from sharetune.trainers.models.structure import SIZE_ATTRIBUTES, Slot, Stack, matrices, source

LAYER_INDICES = ("layer_idx", "layer_id", "layer_index")
"""Attributes in which modules keep their layer's position, to find its KV cache."""

NO_KIND = (*LAYER_INDICES, "seed")
"""Attributes that differ from layer to layer though the layers are of one kind."""

LAYER_DROP_ATTRIBUTES = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
"""Configuration attributes that make training skip layers at random."""

POSITION_CALL = r"self\.{}\(\s*(rel|pos)"
"""A call, in an attention's source, of the matrix ``{}`` on relative positions."""

SHARING_HINT = "share weights instead, for example with form: tie"
"""The hint for plans that ask for more than shared weights."""


def check_feasible(
    stacks: Mapping[str, Stack], plan: SharingPlan, config: PreTrainedConfig
) -> None:
    """Raise :class:`PlanError` if `plan`, bound to `stacks`, asks for the impossible."""
    for group in plan.groups:
        _refuse_group(stacks[group.stack or ""], group, config)
    orders = {name: plan.order(name, len(stack.layers)) for name, stack in stacks.items()}
    for arrangement in arrangements(stacks, orders):
        _refuse_arrangement(arrangement, orders, config)


def _refuse_group(stack: Stack, group: Group, config: PreTrainedConfig) -> None:
    if isinstance(group.form, Merge) and group.init == "mean":
        _refuse_unlike(stack, group)
    for run in (*group.spans().values(), *group.runs()):
        _refuse_apart(
            stack, run, "taken together" if group.form.removes_layers else "run as a block"
        )
    if group.form.removes_layers:
        return
    if group.times > 1:
        _refuse_loop(stack, group)
    if group.form.roles():
        _refuse_reuse(stack, group, config)
    roles = list(dict.fromkeys(role for slot in stack.slots for role in slot.roles))
    roles += [EXPERTS] if stack.experts else []
    if EXPERTS in group.parts:
        (_refuse_experts if group.form.shares else _refuse_fewer_experts)(stack, group)
    if not set(roles) & set(group.parts):
        raise PlanError(
            f"stack {stack.name!r} has none of the parts {write_parts(group.parts)}",
            f"it has {', '.join(roles) or 'no matrices of a known kind'}",
        )
    if isinstance(group.form, Narrow):
        _refuse_narrow(stack, group)
    if group.form.shares:
        _refuse_other_widths(stack, group)
    for slot in stack.slots:
        named = [role for role in slot.roles if role in group.parts]
        if named and len(named) < len(slot.roles) and not group.form.roles():
            raise PlanError(
                f"{slot.path} of stack {stack.name!r} holds {', '.join(slot.roles)} in one "
                f"matrix, but the plan's parts name only {', '.join(named)}",
                "name all of them in parts, or none",
            )


def _refuse_arrangement(arrangement: Arrangement, orders: Orders, config: PreTrainedConfig) -> None:
    """Refuse to drop or repeat layers that the model finds by their number, or all of a stack."""
    for stack in arrangement.stacks:
        if not orders[stack.name]:
            raise PlanError(
                f"a plan must leave a layer, but stack {stack.name!r} would lose all "
                f"{len(stack.layers)}",
                "drop fewer layers",
            )
    if not arrangement.is_changed:
        return
    changed = next(s for s in arrangement.stacks if [*orders[s.name]] != [*range(len(s.layers))])
    _refuse_by_number(arrangement, changed.name, config)
    if changed.beside:
        raise PlanError(
            f"layers of stack {changed.name!r} can be neither dropped nor repeated, because the "
            f"model has further parts of each in {', '.join(changed.beside)}",
            SHARING_HINT,
        )
    listed = any(layer_lists(config, arrangement.length))
    for stack in arrangement.stacks:
        _refuse_order(stack, orders[stack.name], listed=listed)


def _refuse_by_number(arrangement: Arrangement, stack: str, config: PreTrainedConfig) -> None:
    """Refuse to repeat layers that the model gives something of their own, and to drop those whose
    keys and values others read."""
    modes, width = kv_sharing_modes(config.get_text_config()), input_width(config)
    repeats = len(set(arrangement.order)) < len(arrangement.order)
    reason = "some read keys and values of others" if repeats and REUSE in modes else ""
    if width and (repeats or not can_lose_layers(config)):
        reason = f"each has an input by its number: {INPUT_BY_LAYER}={width}"
    if reason:
        raise PlanError(
            f"layers of stack {stack!r} can be neither dropped nor repeated, because {reason}"
            if not repeats
            else f"layers of stack {stack!r} cannot be repeated, because {reason}",
            SHARING_HINT,
        )
    lost = sorted(
        {place for place, mode in enumerate(modes) if mode == STORE} - {*arrangement.order}
    )
    if lost and REUSE in modes:
        raise PlanError(
            f"layer {lost[0]} of {arrangement.path} cannot be dropped, because others read its "
            "keys and values",
            f"keep layers {runs([p for p, mode in enumerate(modes) if mode == STORE])}",
        )


def shares_keys_and_values(config: PreTrainedConfig) -> bool:
    """Return whether some layers of the unshared model read keys and values of others."""
    return REUSE in kv_sharing_modes(config.get_text_config())


def _refuse_order(stack: Stack, order: Sequence[int], *, listed: bool) -> None:
    """Refuse an order that puts a layer where the model needs one of another kind.

    Layers move when others are dropped or repeated. If the configuration lists the kind of each
    layer, the list is reordered with them. Positions after the last are of the last layer's kind.
    """
    if list(order) == list(range(len(stack.layers))):
        return
    kinds = [_layer_kind(layer, attributes=not listed) for layer in stack.layers]
    for place, index in enumerate(order):
        model_layer = min(place, len(kinds) - 1)
        differing = kinds[model_layer] ^ kinds[index]
        if differing:
            raise PlanError(
                f"layer {index} of stack {stack.name!r} cannot take the place of layer "
                f"{model_layer}, because only one of them has {min(differing, key=_tensors_first)}",
                f"keep layer {model_layer}, drop others"
                if len(order) < len(kinds)
                else "run other layers several times, or all of them once",
            )


def _refuse_other_widths(stack: Stack, group: Group) -> None:
    """Refuse to share matrices of unlike widths, such as of heads that are wider in some layers."""
    for own in group.readers():
        first = {slot.path: slot for slot in stack.layer_slots[own[0]]}
        for layer in own[1:]:
            for slot in stack.layer_slots[layer]:
                sections = first[slot.path].sections
                if set(slot.roles) & set(group.parts) and slot.sections != sections:
                    raise PlanError(
                        f"layers {own[0]} and {layer} of stack {stack.name!r} cannot share "
                        f"{slot.path}, which is {sum(sections)} wide in one and "
                        f"{sum(slot.sections)} in the other",
                        "share layers of one width, or other parts",
                    )


def _refuse_experts(stack: Stack, group: Group) -> None:
    """Refuse to share experts that are not there, or of layers that have other ones."""
    for own in group.readers():
        kinds = [_expert_shapes(stack, layer) for layer in own]
        if not kinds[0] or any(kind != kinds[0] for kind in kinds):
            what = "not all have experts alike" if any(kinds) else "they have none"
            raise PlanError(
                f"layers {runs(own)} of stack {stack.name!r} cannot share experts, because {what}",
                f"leave {EXPERTS} out of parts, or name other layers",
            )


def _refuse_fewer_experts(stack: Stack, group: Group) -> None:
    """Refuse to narrow mixtures of an unknown kind, or to fewer experts than their router needs."""
    for layer in map(int, group.layers):
        if len(stack.mixtures[layer]) != 1:
            raise experts_error(stack, layer, "it has several mixtures of them")
        (mixture,) = stack.mixtures[layer]
        kept = group.form.kept(mixture.experts)  # type: ignore[attr-defined]
        if kept < mixture.least or kept % mixture.step:
            which = f"in {mixture.groups} groups of equal size, " if mixture.groups > 1 else ""
            raise PlanError(
                f"layer {layer} of stack {stack.name!r} would keep {kept} of {mixture.experts} "
                f"experts, but its router chooses {which}{mixture.top_k} for each token",
                f"keep {mixture.least} or more"
                + (f", a multiple of {mixture.step}" if mixture.step > 1 else "")
                + f": keep: {mixture.least / mixture.experts:.3g}",
            )


def experts_error(stack: Stack, layer: int, reason: str) -> PlanError:
    """Return the error for a layer of whose mixture no experts can be removed."""
    return PlanError(
        f"layer {layer} of stack {stack.name!r} cannot lose experts, because {reason}",
        f"leave {EXPERTS} out of parts, or share them with form: tie",
    )


def _expert_shapes(stack: Stack, layer: int) -> dict[str, Any]:
    """Return the shapes of the tensors of a layer's experts, by name."""
    modules = dict(stack.layers[layer].named_modules())
    return {
        f"{path}.{name}": tuple(parameter.shape)
        for path in stack.experts
        if path in modules
        for name, parameter in modules[path].named_parameters()
    }


def _refuse_apart(stack: Stack, run: Sequence[int], what: str) -> None:
    """Refuse a run of a stack's layers between which layers of other kinds run."""
    places = [stack.places[layer] for layer in run]
    if places[-1] - places[0] >= len(places):
        raise PlanError(
            f"layers {runs(run)} of stack {stack.name!r} cannot be {what}, because they are layers "
            f"{runs(places)} of {stack.path}, and others run between them",
            "name layers that are next to each other in the model",
        )


def _refuse_unlike(stack: Stack, group: Group) -> None:
    """Layers have a mean if their tensors are the same ones, of equal shapes."""
    kinds = [
        {(name, tuple(p.shape)) for name, p in stack.layers[int(index)].named_parameters()}
        for index in group.layers
    ]
    differing = kinds[0].union(*kinds) - kinds[0].intersection(*kinds)
    if differing:
        name, shape = min(differing)
        raise PlanError(
            f"layers {runs([int(i) for i in group.layers])} of stack {stack.name!r} have no mean, "
            f"because not all of them have {name} of shape {shape}",
            "merge them with init: first, middle or last",
        )


def _refuse_narrow(stack: Stack, group: Group) -> None:
    for slots in stack.families().values():
        if slots[0].role in group.parts:
            what = "ffn" if slots[0].role in FFN else "attention"
            refuse_removal(stack, slots, f"leave {what} out of parts")


def refuse_removal(stack: Stack, slots: Sequence[Slot], hint: str) -> None:
    """Raises :class:`PlanError` if the units of one family cannot be removed."""
    if not can_align(stack, slots):
        raise removal_error(stack, slots, hint)


def removal_error(stack: Stack, slots: Sequence[Slot], hint: str) -> PlanError:
    """Return the error for units of one family that cannot be removed."""
    return PlanError(
        f"the {'neurons' if slots[0].role in FFN else 'heads'} of stack {stack.name!r} cannot "
        "be removed: other weights, such as position biases, count on them",
        hint,
    )


def _refuse_loop(stack: Stack, group: Group) -> None:
    """Refuse to repeat a layer that holds tensors in a module next to other modules with tensors.

    A repeated layer is run module by module, so every tensor must be in a module of its own, which
    may have others without any, as experts have an activation.
    """
    for index in group.layers:
        for path, module in stack.layers[int(index)].named_modules():
            own = saved_names(module)
            if own and (not path or any(map(saved_names, list(module.modules())[1:]))):
                raise PlanError(
                    f"layer {index} of stack {stack.name!r} cannot run {group.times} times, "
                    f"because {f'{path}.{own[0]}'.lstrip('.')} lies in no module of its own",
                    "leave out times for this model",
                )


def saved_names(module: nn.Module) -> list[str]:
    """Return the names of a module's own tensors that are saved."""
    buffers = [n for n in module._buffers if n not in module._non_persistent_buffers_set]
    return [name for name, _ in module.named_parameters(recurse=False)] + buffers


def _refuse_reuse(stack: Stack, group: Group, config: PreTrainedConfig) -> None:
    """Refuse reuse of a matrix that some passes skip, call twice, or call on other tokens."""
    what = f"layers of stack {stack.name!r} cannot reuse {' and '.join(group.form.roles() or ())}"
    for slot in stack.slots:
        parent, _, name = slot.path.rpartition(".")
        kind = type(stack.layers[0].get_submodule(parent))
        if not set(slot.roles) & set(group.parts):
            continue
        if re.search(POSITION_CALL.format(name), source(kind)):  # type: ignore[arg-type]
            raise PlanError(
                f"{what}, because relative positions go through {slot.path}, too", SHARING_HINT
            )
        if re.search(rf"self\.{name}\.(weight|bias)", source(kind)):  # type: ignore[arg-type]
            raise PlanError(
                f"{what}, because its attention reads the weights of {slot.path} itself",
                SHARING_HINT,
            )
        if _is_called_twice(source(kind), name):  # type: ignore[arg-type]
            raise PlanError(
                f"{what}, because {slot.path} is applied to other states as well", SHARING_HINT
            )
    kinds = [_integer_settings(stack.layers[int(index)]) for index in group.layers]
    differing = kinds[0].union(*kinds) - kinds[0].intersection(*kinds)
    if differing:
        raise PlanError(
            f"{what}, because they look at different tokens: {', '.join(sorted(differing))}",
            SHARING_HINT,
        )
    skipping = [name for name in LAYER_DROP_ATTRIBUTES if getattr(config, name, 0)]
    if skipping:
        raise PlanError(
            f"{what}, because training skips layers at random: "
            f"{skipping[0]}={getattr(config, skipping[0])}",
            f"load the model with {skipping[0]}=0",
        )


@cache
def _is_called_twice(text: str, name: str) -> bool:
    """Return whether a class of this source calls its child `name` twice in one pass.

    Calls in different branches of one condition are never in one pass.
    """
    found: list[dict[int, int]] = []

    def visit(node: ast.AST, branches: dict[int, int]) -> None:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"self.{name}":
            found.append(branches)
        for key, value in ast.iter_fields(node):
            own = branches
            if isinstance(node, ast.If | ast.IfExp) and key in ("body", "orelse"):
                own = branches | {id(node): key == "body"}
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, own)

    visit(ast.parse(textwrap.dedent(text)), {})
    return any(
        all(other.get(condition, branch) == branch for condition, branch in one.items())
        for one, other in combinations(found, 2)
    )


def _integer_settings(layer: nn.Module) -> set[str]:
    """Return a layer's integer settings as ``name=value``, such as Swin's shift."""
    return {
        f"{name}={value}"
        for name, value in vars(layer).items()
        if isinstance(value, int) and not isinstance(value, bool) and name not in NO_KIND
    }


def _layer_kind(layer: nn.Module, *, attributes: bool) -> set[str]:
    """Return the names of the layer's tensors, and its integer settings, such as Swin's shift.

    Settings that say how wide the layer is are left out.
    """
    widths = {path for path, _ in matrices(layer)}
    return {name for name, _ in layer.named_parameters()} | {
        f"{path}.{name}={value}".lstrip(".")
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if attributes and path not in widths and name not in SIZE_ATTRIBUTES
        if not counts_experts(name)
        if isinstance(value, int) and name not in NO_KIND
    }


def _tensors_first(trait: str) -> tuple[bool, str]:
    return "=" in trait, trait
