"""Sharing plans: which layers of which stack share which weights, in which form.

A plan is canonical from birth where its layers are absolute, and in any case once it is
bound to a model's stacks: every group is one bank, groups that share nothing are gone, and
ratios are those that whole units can reach. Two plans that build the same model are equal.

    >>> plan = SharingPlan.range(2, 7, 0.7)
    >>> plan == SharingPlan.model_validate(
    ...     {"groups": [{"layers": "2..7", "form": {"bank": {"ratio": 0.7}}}]}
    ... )
    True
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from sharetune.spaces.assignments import Assignment, AssignmentField
from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import Bank, Drop, Form, FormField, Tie
from sharetune.spaces.inits import INITS, shortest_init, step
from sharetune.spaces.layers import Layers, is_absolute, resolve_layers, runs
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.units import UNITS, UnitsName

ATTENTION = ("q", "k", "v", "o")
FFN = ("fc_in", "gate", "fc_out")
PARTS: dict[str, tuple[str, ...]] = {"attention": ATTENTION, "ffn": FFN}
ROLES = (*ATTENTION, *FFN, "norms", "biases")


def read_parts(value: Any) -> tuple[str, ...]:
    """Roles from ``attention``, ``ffn``, ``norms``, ``biases`` or single matrices, in order."""
    names = [value] if isinstance(value, str) else list(value)
    roles: set[str] = set()
    for name in names:
        if name not in PARTS and name not in ROLES:
            raise PlanError(f"unknown part: {name!r}", did_you_mean(str(name), [*PARTS, *ROLES]))
        roles.update(PARTS.get(name, (name,)))
    if not roles & {*ATTENTION, *FFN}:
        raise PlanError(
            f"a group must share at least one matrix, but got parts {names}",
            f"add attention, ffn or one of {', '.join(ATTENTION + FFN)}",
        )
    return tuple(role for role in ROLES if role in roles)


def write_parts(roles: tuple[str, ...]) -> list[str]:
    """The shortest list of names that :func:`read_parts` reads as `roles`."""
    names: list[str] = []
    rest = list(roles)
    for part, members in PARTS.items():
        if set(members) <= set(rest):
            names.append(part)
            rest = [role for role in rest if role not in members]
    return names + rest


Parts = Annotated[tuple[str, ...], BeforeValidator(read_parts), PlainSerializer(write_parts)]


@dataclass(frozen=True)
class StackShape:
    """What a plan must know of one stack of layers.

    `heads` are the units of attention (KV groups under grouped-query attention), `neurons`
    the width of the FFN's intermediate layer. `similarity`, where it was measured, says how
    alike each two layers' outputs are (linear CKA, 0..1).
    """

    depth: int
    heads: int
    neurons: int
    similarity: tuple[tuple[float, ...], ...] | None = None

    def units(self, roles: Iterable[str]) -> tuple[int, ...]:
        """Counts of the units a ratio is rounded to: heads, and neurons in eights."""
        roles = set(roles)
        attention = (self.heads,) if roles & set(ATTENTION) else ()
        return attention + ((self.neurons // 8,) if roles & set(FFN) else ())


class Group(BaseModel):
    """A set of layers of one stack that share by one rule.

    `stack` may be left out where the model has one. `init` says which of the bank's layers
    its weights start from, or is the number of a layer of the stack (0-based). `units` says which
    heads and neurons are shared: the `first` as they lie, those that match best across the layers,
    or, by `importance`, the least important ones, matched, so that the important ones stay
    private. The layers run `times` times, as a block
    or, by `order`, each `layer` in place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Layers
    stack: str | None = None
    parts: Parts = (*ATTENTION, *FFN)
    assign: AssignmentField = Assignment()
    form: FormField = Tie()
    init: str | Annotated[int, Field(ge=0)] = "mean"
    units: UnitsName = "importance"
    times: int = Field(1, ge=1)
    order: Literal["block", "layer"] = "block"

    @model_validator(mode="after")
    def _check(self) -> "Group":
        if isinstance(self.init, str):
            INITS[self.init]
        if "norms" in self.parts and not isinstance(self.form.canonical(), Tie | None):
            raise PlanError(
                f"norms can only be shared whole, but the form is {self.form.name}",
                "use form: tie, or leave norms out of parts",
            )
        if getattr(self.form, "heads", False) and "o" not in self.parts:
            raise PlanError(
                f"heads are mixed in front of o, but parts are {write_parts(self.parts)}",
                "add o to parts, or leave out heads",
            )
        self._take_roles()
        if self.times > 1 and self.form.removes_layers:
            raise PlanError(
                f"layers that a {self.form.name} removes cannot run {self.times} times",
                "leave out times, or use another form",
            )
        if is_absolute(self.layers):
            self.runs()
        if self.is_settled:
            self.assign.owners(len(self.layers))
        return self

    def _take_roles(self) -> None:
        """Narrows `parts` to what the form takes, if it takes only that."""
        roles = self.form.roles()
        if roles is None:
            return
        if not set(roles) <= set(self.parts):
            raise PlanError(
                f"{self.form.name} takes {' and '.join(roles)}, but got parts "
                f"{write_parts(self.parts)}",
                "leave out parts, or name both",
            )
        object.__setattr__(self, "parts", roles)

    def runs(self) -> list[tuple[int, ...]]:
        """The runs of adjacent layers that are repeated as one; none if all run once."""
        layers = cast(tuple[int, ...], self.layers)
        if self.times == 1:
            return []
        if self.order == "layer":
            return [(layer,) for layer in layers]
        if layers[-1] - layers[0] >= len(layers):
            raise PlanError(
                f"a block that runs {self.times} times must be of adjacent layers, but got "
                f"{runs(layers)}",
                "write order: layer, or one group for each run of layers",
            )
        return [layers]

    def readers(self) -> list[tuple[int, ...]]:
        """The layers of each bank, of a group with absolute layers."""
        readers: dict[int, list[int]] = defaultdict(list)
        layers = cast(tuple[int, ...], self.layers)
        for layer, owner in zip(layers, self.assign.owners(len(layers)), strict=True):
            readers[owner].append(layer)
        return [tuple(own) for own in readers.values()]

    def inits(self) -> list[str | int]:
        """What each bank starts from, of a group with absolute layers."""
        layers, banks = cast(tuple[int, ...], self.layers), self.readers()
        steps = [layers[step(bank, len(banks), len(layers))] for bank in range(len(banks))]
        starts = steps if self.init == "stepwise" else [self.init] * len(banks)
        return [shortest_init(start, own) for start, own in zip(starts, banks, strict=True)]

    @property
    def is_settled(self) -> bool:
        """Whether its banks are known without a model."""
        return is_absolute(self.layers) and self.assign.find is None

    def bound(self, stack: str, shape: StackShape) -> "Group":
        """The group with absolute layers and reachable knobs for a stack of this shape."""
        layers = resolve_layers(self.layers, shape.depth, stack)
        if isinstance(self.init, int) and self.init >= shape.depth:
            raise PlanError(
                f"init: {self.init} is not a layer of stack {stack!r}, which has {shape.depth}",
                f"name a layer from 0 to {shape.depth - 1}, or one of {', '.join(INITS)}",
            )
        return self.model_copy(
            update={
                "stack": stack,
                "layers": layers,
                "assign": self._found_assignment(layers, shape),
                "form": self.form.rounded(shape.units(self.parts)),
            }
        )

    def _found_assignment(self, layers: tuple[int, ...], shape: StackShape) -> Assignment:
        """The assignment, with an owner map in place of one that is found by similarity."""
        if self.assign.find is None:
            return self.assign
        if shape.similarity is None:
            self.assign.owners(len(layers))
        assert shape.similarity is not None
        alike = [[shape.similarity[i][j] for j in layers] for i in layers]
        return Assignment("owners", self.assign.find(alike, self.assign.argument))

    def banks(self) -> "list[Group]":
        """One group a bank, or for layers that run several times one group a run of them at
        least; layers that share with no other are left out."""
        form = self.form.canonical()
        if self.times > 1:
            return self._looped(form)
        if form is None:
            return []
        if form.removes_layers:
            return [Group(stack=self.stack, layers=self.layers, form=form)]
        bank: dict[str, Any] = {"assign": Assignment(), "form": form} | self._heeded(form)
        inits = self.inits() if "init" in form.heeds else [bank["init"]] * len(self.readers())
        return [
            self.model_copy(update=bank | {"layers": own, "init": init})
            for own, init in zip(self.readers(), inits, strict=True)
            if len(own) > 1
        ]

    def _looped(self, form: Form | None) -> "list[Group]":
        self.runs()
        layers = cast(tuple[int, ...], self.layers)
        apart = form is None or len(self.readers()) == len(layers)
        if form is None or (apart and isinstance(form, Tie)):
            plain = Group(stack=self.stack, layers=layers, times=self.times, order=self.order)
            looped = plain.model_copy(update={"assign": Assignment("each")})
        else:
            assign = Assignment("each") if apart else self._owner_map()
            start = {"init": Group.model_fields["init"].default} if apart else {}
            rule = {"assign": assign, "form": form} | self._heeded(form) | start
            looped = self.model_copy(update=rule)
            if len(looped.readers()) == 1:
                looped = looped.model_copy(update={"init": looped.inits()[0]})
        if len(layers) > 1 and not (apart and self.order == "layer"):
            return [looped]
        single = {"assign": Assignment(), "order": "block"}
        return [looped.model_copy(update=single | {"layers": (layer,)}) for layer in layers]

    def _owner_map(self) -> Assignment:
        owners = self.assign.owners(len(self.layers))
        return Assignment("owners", owners) if any(owners) else Assignment()

    @property
    def only_loops(self) -> bool:
        """Whether all that a canonical group does is to run its layers several times."""
        apart = self.assign.name == "each" or len(self.layers) == 1
        return self.times > 1 and apart and isinstance(self.form, Tie)

    @property
    def matches_units(self) -> bool:
        """Whether the units of a canonical group are matched across its layers."""
        return UNITS[self.units].matches and "units" in self.form.heeds and not self.only_loops

    def _heeded(self, form: Form) -> dict[str, Any]:
        """`init` and `units` as far as the form goes by them, else their defaults."""
        defaults = {name: Group.model_fields[name].default for name in ("init", "units")}
        heeded = {name: getattr(self, name) for name in defaults if name in form.heeds}
        if form.whole and UNITS[self.units].matches:
            heeded["units"] = defaults["units"]
        return defaults | heeded

    def __str__(self) -> str:
        where = self.layers if isinstance(self.layers, str) else runs(self.layers)
        stack = f"{self.stack} " if self.stack else ""
        if self.form.removes_layers:
            return f"{stack}{where} {self.form.name}"
        knobs = " ".join(map(_knob_text, self.form.model_dump(exclude_defaults=True).items()))
        form = f"{self.form.name} {knobs}".strip()
        units = "" if self.units == "importance" else f" by {self.units}"
        start = f" {'+'.join(write_parts(self.parts))} from {self._init_text()}{units}"
        rule = f"{form}{'' if self.form.roles() else start}"
        words = [f"{stack}{where}", self._loop_text(), "" if self.only_loops else rule]
        return " ".join(filter(None, words))

    def _init_text(self) -> str:
        return f"layer {self.init}" if isinstance(self.init, int) else self.init

    def _loop_text(self) -> str:
        each = "each " if self.order == "layer" else ""
        return f"{each}x{self.times}" if self.times > 1 else ""


def _knob_text(knob: tuple[str, Any]) -> str:
    name, value = knob
    return name if value is True else f"{value:g}" if isinstance(value, float) else str(value)


class SharingPlan(BaseModel):
    """Which layers read which bank. No groups: the unshared model.

    Raises ``pydantic.ValidationError`` (whose causes are :class:`PlanError`) for groups that
    overlap: two groups of one stack may not share the same role of the same layer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: tuple[Group, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("groups"), list | tuple):
            return data
        groups = [g if isinstance(g, Group) else Group.model_validate(g) for g in data["groups"]]
        _refuse_overlap(groups)
        return {**data, "groups": _canonical_groups(groups)}

    @classmethod
    def range(cls, first: int, last: int, ratio: float, **group: Any) -> "SharingPlan":
        """Layers `first` to `last` (0-based, inclusive) share the fraction `ratio` (0..1)."""
        layers = f"{first}..{last}"
        return cls(groups=(Group(layers=layers, form=Bank(ratio=ratio), **group),))

    @classmethod
    def drop(cls, layers: Iterable[int], stack: str | None = None) -> "SharingPlan":
        """The plan that removes these layers."""
        return cls(groups=(Group(layers=tuple(layers), stack=stack, form=Drop()),))

    @classmethod
    def preset(cls, name: str) -> "SharingPlan":
        """A plan from the literature, by the name that `sharetune list presets` prints."""
        if name not in presets():
            raise PlanError(f"unknown preset: {name!r}", did_you_mean(name, presets()))
        return cls.from_yaml(
            (files("sharetune.spaces") / "presets" / f"{name}.yaml").read_text("utf-8")
        )

    @classmethod
    def from_yaml(cls, text: str) -> "SharingPlan":
        """Reads what :meth:`to_yaml` writes; JSON is YAML too."""
        return cls.model_validate(yaml.safe_load(text) or {})

    @classmethod
    def load(cls, path: Path) -> "SharingPlan":
        """Reads a plan file. Raises :class:`PlanError` if it is missing or not YAML."""
        try:
            return cls.from_yaml(path.read_text("utf-8"))
        except FileNotFoundError:
            raise PlanError(
                f"no such plan file: {path}", f"write one, or use a preset: {', '.join(presets())}"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise PlanError(f"{path} is not YAML: {error}", "see spaces/presets/*.yaml") from None

    def to_yaml(self) -> str:
        """The plan as users write it; defaults are left out."""
        return yaml.safe_dump(self.written(), sort_keys=False, default_flow_style=None)

    def written(self) -> dict[str, Any]:
        """The plan as plain data, defaults left out."""
        return self.model_dump(mode="json", exclude_defaults=True) or {"groups": []}

    def bound(self, stacks: Mapping[str, StackShape]) -> "SharingPlan":
        """The canonical plan for a model with these stacks.

        Raises :class:`PlanError` for a stack the model lacks, a layer beyond it, or groups
        that overlap once their layers are known.
        """
        names = [_stack_of(group, stacks) for group in self.groups]
        return SharingPlan(
            groups=tuple(
                group.bound(name, stacks[name])
                for group, name in zip(self.groups, names, strict=True)
            )
        )

    def keeping_top(self, k: int, stacks: Mapping[str, StackShape]) -> "SharingPlan":
        """The bound plan with the top `k` layers of each stack left private and in place."""
        groups = []
        for group in self.bound(stacks).groups:
            depth = stacks[group.stack or ""].depth
            layers = tuple(layer for layer in group.layers if int(layer) < depth - k)
            if layers:
                groups.append(group.model_copy(update=_first_layers(group, layers)))
        return SharingPlan(groups=tuple(groups))

    def order(self, stack: str, depth: int) -> tuple[int, ...]:
        """The layer, of `depth`, that runs at each position of a stack. The plan is bound."""
        own = [group for group in self.groups if group.stack == stack]
        removed = {i for group in own if group.form.removes_layers for i in group.layers}
        repeated = {run[0]: run * group.times for group in own for run in group.runs()}
        inner = {layer for run in repeated.values() for layer in run} - set(repeated)
        starts = (i for i in range(depth) if i not in removed | inner)
        return tuple(layer for i in starts for layer in repeated.get(i, (i,)))

    def __str__(self) -> str:
        return "; ".join(map(str, self.groups)) or "unshared"

    def __hash__(self) -> int:
        return hash(json.dumps(self.written(), sort_keys=True))


def presets() -> list[str]:
    """Names of the plans that come with the package."""
    folder = files("sharetune.spaces") / "presets"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name[0] != "_")


def _first_layers(group: Group, layers: tuple[Any, ...]) -> dict[str, Any]:
    if group.assign.name != "owners":
        return {"layers": layers}
    owners = group.assign.owners(len(group.layers))[: len(layers)]
    return {"layers": layers, "assign": Assignment("owners", owners)}


def _stack_of(group: Group, stacks: Mapping[str, StackShape]) -> str:
    if group.stack is None and len(stacks) == 1:
        return next(iter(stacks))
    if group.stack is None or group.stack not in stacks:
        asked = "no stack is named" if group.stack is None else f"no stack {group.stack!r}"
        raise PlanError(
            f"the plan does not fit the model: {asked}, and the model has "
            f"{', '.join(f'{n!r} of {s.depth} layers' for n, s in stacks.items())}",
            "name one of the model's stacks in each group, as `stack: NAME`",
        )
    return group.stack


def _canonical_groups(groups: list[Group]) -> tuple[Group, ...]:
    """One group a bank, groups over the same layers merged, in order of layers."""
    merged: dict[Group, set[str]] = defaultdict(set)
    for bank in (b for g in groups for b in (g.banks() if g.is_settled else [g])):
        merged[bank.model_copy(update={"parts": ()})] |= set(bank.parts)
    canonical = [
        rule.model_copy(update={"parts": read_parts(roles)}) for rule, roles in merged.items()
    ]
    return tuple(sorted(_without_idle_loops(_one_drop_a_stack(canonical)), key=_order))


def _without_idle_loops(groups: list[Group]) -> list[Group]:
    """`groups` less those that only run layers again which another group does, too."""

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
        if group.form.removes_layers and is_absolute(group.layers):
            dropped[group.stack].extend(cast(tuple[int, ...], group.layers))
        else:
            kept.append(group)
    return kept + [
        Group(stack=stack, layers=tuple(layers), form=Drop()) for stack, layers in dropped.items()
    ]


def _order(group: Group) -> tuple[Any, ...]:
    absolute = is_absolute(group.layers)
    return (
        group.stack or "",
        not absolute,
        group.layers if absolute else str(group.layers),
        group.parts,
    )


def _refuse_overlap(groups: list[Group]) -> None:
    for one, two in combinations(groups, 2):
        if one.stack != two.stack or not (is_absolute(one.layers) and is_absolute(two.layers)):
            continue
        layers = sorted({int(i) for i in one.layers} & {int(i) for i in two.layers})
        _refuse_unlike_loops(one, two, layers)
        removes = one.form.removes_layers or two.form.removes_layers
        roles = write_parts(tuple(r for r in ROLES if r in one.parts and r in two.parts))
        if layers and (removes or roles):
            raise PlanError(
                f"groups must not overlap, but {'layers' if removes else ' and '.join(roles)} "
                f"{runs(layers)} are in two groups",
                "give each layer's part to one group only",
            )


def _refuse_unlike_loops(one: Group, two: Group, layers: list[int]) -> None:
    """A layer runs as often, and in the same run, whichever group says so."""
    loops = [{i: (group.times, run) for run in group.runs() for i in run} for group in (one, two)]
    unlike = [layer for layer in layers if loops[0].get(layer) != loops[1].get(layer)]
    if unlike and not (one.form.removes_layers or two.form.removes_layers):
        raise PlanError(
            f"groups over the same layers must run them alike, but layers {runs(unlike)} run "
            f"{one.times} times in one group and {two.times} times in another"
            + (", in another order" if one.times == two.times else ""),
            "give both groups the same layers, times and order",
        )
