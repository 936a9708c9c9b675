"""Sharing plans: which layers of which stack share which weights, in which form.

A plan is canonical once it is bound to a model's stacks, and from birth where its layers are
absolute: every group is one bank, groups that share nothing are removed, and ratios are those that
whole units can reach. Two plans that build the same model are equal.

    >>> plan = SharingPlan.range(2, 7, 0.7)
    >>> plan == SharingPlan.model_validate(
    ...     {"groups": [{"layers": "2..7", "form": {"bank": {"ratio": 0.7}}}]}
    ... )
    True
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import Field, model_validator

from sharetune.spaces.assignments import Assignment
from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import Bank, Drop, Form, Narrow
from sharetune.spaces.group import Group
from sharetune.spaces.layers import is_absolute, runs
from sharetune.spaces.parts import NARROWED, ROLES, read_parts, write_parts
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.settings import StrictModel, read_settings, reason
from sharetune.spaces.stack_shape import ONLY_WHOLE, StackShape
from sharetune.spaces.yaml_text import read_yaml, write_yaml


class SharingPlan(StrictModel):
    """A sharing plan: which layers read which bank, in which form.

    Raises :class:`PlanError` for groups that overlap: two groups of one stack may not share the
    same role of the same layer.
    """

    groups: tuple[Group, ...] = Field(
        (), description="Groups of layers that share; none is the unshared model."
    )

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, data: object) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("groups"), list | tuple):
            return data
        groups = [g if isinstance(g, Group) else Group.model_validate(g) for g in data["groups"]]
        _refuse_overlap(groups)
        return {**data, "groups": _canonical_groups(groups)}

    @classmethod
    def range(cls, first: int, last: int, ratio: float, **group: object) -> "SharingPlan":
        """Plan that layers `first` to `last` (0-based, inclusive) share a `ratio` (0..1).

        Raises :class:`SharetuneError`, as :meth:`drop` does, for values out of range.
        """
        layers = f"{first}..{last}"
        return cls(groups=(Group(layers=layers, form=Bank(ratio=ratio), **group),))

    @classmethod
    def drop(cls, layers: Iterable[int], stack: str | None = None) -> "SharingPlan":
        """Plan to remove these layers (0-based)."""
        return cls(groups=(Group(layers=tuple(layers), stack=stack, form=Drop()),))

    @classmethod
    def preset(cls, name: str) -> "SharingPlan":
        """Read a plan from the literature, by the name that `sharetune list presets` prints."""
        if name not in presets():
            raise PlanError(f"unknown preset: {name!r}", did_you_mean(name, presets()))
        return cls.from_yaml(preset_text(name))

    @classmethod
    def from_yaml(cls, text: str, source: str = "the plan") -> "SharingPlan":
        """Read a plan that :meth:`to_yaml` wrote, or JSON; errors name `source`.

        Raises :class:`PlanError` for text that is not YAML, and :class:`ConfigError` for no plan.
        """
        try:
            data = read_yaml(text)
        except yaml.YAMLError as error:
            raise PlanError(
                f"{source} is not YAML: {reason(error)}", "see spaces/presets/*.yaml"
            ) from None
        return read_settings(cls, data or {}, source)

    @classmethod
    def load(cls, path: Path) -> "SharingPlan":
        """Read a plan file. Raises :class:`PlanError` if it is missing or not YAML."""
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            raise PlanError(
                f"no such plan file: {path}", f"write one, or use a preset: {', '.join(presets())}"
            ) from None
        except UnicodeDecodeError as error:
            raise PlanError(f"{path} is not UTF-8: {error}", "save it as UTF-8") from None
        return cls.from_yaml(text, str(path))

    def to_yaml(self) -> str:
        """Write the plan as users do, in YAML; defaults are left out."""
        return write_yaml(self.written(), flow=None)

    def written(self) -> dict[str, Any]:
        """Return the plan as plain data; defaults are left out."""
        return self.model_dump(mode="json", exclude_defaults=True) or {"groups": []}

    def bound(self, stacks: Mapping[str, StackShape]) -> "SharingPlan":
        """Return the canonical plan for a model with these stacks.

        Raises :class:`PlanError` for a stack or a layer that the model does not have, and for
        groups that overlap once their layers are known.
        """
        groups = []
        for group in self.groups:
            name = _stack_of(group, stacks)
            groups.append(group.bound(name, stacks[name]).within(stacks[name]))
        narrow = [part for group in groups for part in _narrow(group, stacks)]
        left = dict(stacks) | _shapes_left(narrow, stacks)
        others = [
            bank
            for group in groups
            if not isinstance(group.form, Narrow)
            for bank in group.rounded(left[group.stack or ""])
        ]
        return SharingPlan(groups=(*narrow, *others))

    def shapes_left(self, stacks: Mapping[str, StackShape]) -> dict[str, StackShape]:
        """Return the stacks' shapes after narrowing. The plan is bound."""
        narrow = [group for group in self.groups if isinstance(group.form, Narrow)]
        return dict(stacks) | _shapes_left(narrow, stacks)

    def spans(self, stack: str) -> dict[int, tuple[int, ...]]:
        """Return, for each layer of a stack that takes the place of adjacent ones, all of these.

        The layers are 0-based, in order, the one that stays among them. The plan is bound.
        """
        own = [group for group in self.groups if group.stack == stack]
        return {layer: span for group in own for layer, span in group.spans().items()}

    def keeping_top(self, k: int, stacks: Mapping[str, StackShape]) -> "SharingPlan":
        """Return the bound plan with the top `k` layers of each stack private and in place."""
        groups = []
        for group in self.bound(stacks).groups:
            depth = stacks[group.stack or ""].depth
            layers = tuple(layer for layer in group.layers if int(layer) < depth - k)
            if layers:
                groups.append(group.model_copy(update=_first_layers(group, layers)))
        return SharingPlan(groups=tuple(groups))

    def order(self, stack: str, depth: int) -> tuple[int, ...]:
        """Return the layer (0-based, of `depth`) that runs at each position of a stack.

        The plan is bound.
        """
        own = [group for group in self.groups if group.stack == stack]
        removed = {i for group in own for i in group.removed()}
        repeated = {run[0]: run * group.times for group in own for run in group.runs()}
        inner = {layer for run in repeated.values() for layer in run} - set(repeated)
        starts = (i for i in range(depth) if i not in removed | inner)
        return tuple(layer for i in starts for layer in repeated.get(i, (i,)))

    def __str__(self) -> str:
        return "; ".join(map(str, self.groups)) or "unshared"

    def __hash__(self) -> int:
        return hash(json.dumps(self.written(), sort_keys=True))


def preset_text(name: str) -> str:
    """Return the file of a preset, whose first line says what it is and where it is from."""
    return (files("sharetune.spaces") / "presets" / f"{name}.yaml").read_text("utf-8")


def presets() -> list[str]:
    """List the names of the plans that come with the package."""
    folder = files("sharetune.spaces") / "presets"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name[0] != "_")


def _narrow(group: Group, stacks: Mapping[str, StackShape]) -> list[Group]:
    return group.rounded(stacks[group.stack or ""]) if isinstance(group.form, Narrow) else []


def _shapes_left(
    narrow: Iterable[Group], stacks: Mapping[str, StackShape]
) -> dict[str, StackShape]:
    left: dict[str, StackShape] = {}
    for group in narrow:
        name, form = group.stack or "", cast(Narrow, group.form)
        shape = left.get(name, stacks[name])
        left[name] = shape.narrowed(cast(tuple[int, ...], group.layers), group.parts, form)
    return left


def _first_layers(group: Group, layers: tuple[Any, ...]) -> dict[str, Any]:
    if group.assign.name != "owners":
        return {"layers": layers, "form": group.form_of(layers)}
    owners = group.assign.owners(len(group.layers))[: len(layers)]
    first = {"layers": layers, "form": group.form_of(layers)}
    return first | {"assign": Assignment("owners", owners)}


def _stack_of(group: Group, stacks: Mapping[str, StackShape]) -> str:
    if group.stack is None and (len(stacks) == 1 or ONLY_WHOLE in stacks):
        return ONLY_WHOLE if ONLY_WHOLE in stacks else next(iter(stacks))
    if group.stack is None or group.stack not in stacks:
        asked = "no stack is named" if group.stack is None else f"no stack {group.stack!r}"
        raise PlanError(
            f"the plan does not fit the model: {asked}, and the model has "
            f"{', '.join(f'{n!r} of {s.depth} layers' for n, s in stacks.items())}",
            "name one of the model's stacks in each group, as `stack: NAME`",
        )
    return group.stack


def _canonical_groups(groups: list[Group]) -> tuple[Group, ...]:
    """Return one group for each bank, those over the same layers merged, in order of layers."""
    merged: dict[Group, set[str]] = defaultdict(set)
    for bank in (b for g in groups for b in (g.banks() if g.is_settled else [g])):
        merged[bank.model_copy(update={"parts": ()})] |= set(bank.parts)
    canonical = [
        rule.model_copy(update={"parts": read_parts(roles)}) for rule, roles in merged.items()
    ]
    settled = _one_narrow_a_width(_one_drop_a_stack(canonical))
    return tuple(sorted(_without_idle_loops(settled), key=_order))


def _without_idle_loops(groups: list[Group]) -> list[Group]:
    """Return `groups` without those that only repeat layers which another group repeats too."""

    def is_idle(group: Group) -> bool:
        return group.only_loops and any(
            other is not group
            and other.times > 1
            and other.stack == group.stack
            and set(group.layers) <= set(other.layers)
            for other in groups
        )

    return [group for group in groups if not is_idle(group)]


def _one_drop_a_stack(groups: list[Group]) -> list[Group]:
    kept: list[Group] = []
    dropped: dict[str | None, list[int]] = defaultdict(list)
    for group in groups:
        if isinstance(group.form, Drop) and is_absolute(group.layers):
            dropped[group.stack].extend(cast(tuple[int, ...], group.layers))
        else:
            kept.append(group)
    return kept + [
        Group(stack=stack, layers=tuple(layers), form=Drop()) for stack, layers in dropped.items()
    ]


def _one_narrow_a_width(groups: list[Group]) -> list[Group]:
    """Merge groups whose layers and parts of a stack keep the same fraction of their units."""
    kept: list[Group] = []
    layers: dict[tuple[str | None, Form, str], set[int]] = defaultdict(set)
    for group in groups:
        if not isinstance(group.form, Narrow) or not is_absolute(group.layers):
            kept.append(group)
            continue
        for part, roles in NARROWED.items():
            if set(roles) <= set(group.parts):
                layers[group.stack, group.form, part] |= {int(layer) for layer in group.layers}
    parts: dict[tuple[str | None, Form, tuple[int, ...]], list[str]] = defaultdict(list)
    for (stack, form, part), own in layers.items():
        parts[stack, form, tuple(sorted(own))].append(part)
    return kept + [
        Group(stack=stack, layers=own, parts=read_parts(named), form=form)
        for (stack, form, own), named in parts.items()
    ]


def _order(group: Group) -> tuple[Any, ...]:
    absolute = is_absolute(group.layers)
    return (
        group.stack or "",
        not absolute,
        group.layers if absolute else str(group.layers),
        group.parts,
        not isinstance(group.form, Narrow),
    )


def _refuse_overlap(groups: list[Group]) -> None:
    for one, two in combinations(groups, 2):
        if one.stack != two.stack or not (is_absolute(one.layers) and is_absolute(two.layers)):
            continue
        layers = sorted({int(i) for i in one.layers} & {int(i) for i in two.layers})
        if isinstance(one.form, Narrow) != isinstance(two.form, Narrow):
            _refuse_narrowing_removed(one, two)
            continue
        _refuse_unlike_loops(one, two, layers)
        removes = one.form.removes_layers or two.form.removes_layers
        roles = write_parts(tuple(r for r in ROLES if r in one.parts and r in two.parts))
        if layers and (removes or roles):
            raise PlanError(
                f"groups must not overlap, but {'layers' if removes else ' and '.join(roles)} "
                f"{runs(layers)} are in two groups",
                "give each layer's part to one group only",
            )


def _refuse_narrowing_removed(one: Group, two: Group) -> None:
    """Refuse narrowing a layer that another group removes; what is left of one may be shared."""
    removed = {i for group in (one, two) if group.is_settled for i in group.removed()}
    layers = sorted(removed & set(one.layers) & set(two.layers))
    if layers:
        raise PlanError(
            f"groups must not overlap, but layers {runs(layers)} are removed in one and narrowed "
            "in another",
            "narrow layers that stay",
        )


def _refuse_unlike_loops(one: Group, two: Group, layers: list[int]) -> None:
    """Refuse groups that repeat the same layer a different number of times or in other runs."""
    loops = [{i: (group.times, run) for run in group.runs() for i in run} for group in (one, two)]
    unlike = [layer for layer in layers if loops[0].get(layer) != loops[1].get(layer)]
    if unlike and not (one.form.removes_layers or two.form.removes_layers):
        raise PlanError(
            f"groups over the same layers must run them alike, but layers {runs(unlike)} run "
            f"{one.times} times in one group and {two.times} times in another"
            + (", in another order" if one.times == two.times else ""),
            "give both groups the same layers, times and order",
        )
