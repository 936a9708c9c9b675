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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from sharetune.spaces.assignments import Assignment, AssignmentField, most_alike
from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import Bank, Drop, Form, FormField, Merge, Narrow, Reuse, Tie
from sharetune.spaces.inits import INITS, shortest_init, start_of, step
from sharetune.spaces.layers import Layers, is_absolute, resolve_layers, runs
from sharetune.spaces.registry import did_you_mean

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
    the width of the FFN's intermediate layer: one number, or one for each layer where they
    differ. `similarity`, where it was measured, says how alike each two layers' outputs are
    (linear CKA, 0..1).
    """

    depth: int
    heads: int | tuple[int, ...]
    neurons: int | tuple[int, ...]
    similarity: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "neurons"):
            counts = getattr(self, name)
            if not isinstance(counts, int):
                equal = len(set(counts)) == 1
                object.__setattr__(self, name, counts[0] if equal else tuple(counts))

    @property
    def is_uniform(self) -> bool:
        """Whether all layers are of one width."""
        return isinstance(self.heads, int) and isinstance(self.neurons, int)

    def heads_of(self, layer: int) -> int:
        """Return the units of attention in `layer`."""
        return self.heads if isinstance(self.heads, int) else self.heads[layer]

    def neurons_of(self, layer: int) -> int:
        """Return the width of the FFN in `layer`."""
        return self.neurons if isinstance(self.neurons, int) else self.neurons[layer]

    def units(self, roles: Iterable[str], layer: int = 0) -> tuple[int, ...]:
        """Counts of the units a ratio is rounded to: heads, and neurons in eights."""
        roles = set(roles)
        attention = (self.heads_of(layer),) if roles & set(ATTENTION) else ()
        return attention + ((self.neurons_of(layer) // 8,) if roles & set(FFN) else ())

    def at(self, order: Sequence[int]) -> "StackShape":
        """Return the shape of a stack in which these layers of it run."""
        heads, neurons = map(self.heads_of, order), map(self.neurons_of, order)
        return StackShape(len(order), tuple(heads), tuple(neurons))

    def narrowed(self, groups: "Iterable[Group]") -> "StackShape":
        """Return the shape that is left by `groups` of the stack, bound, whose form is narrow."""
        heads = [self.heads_of(layer) for layer in range(self.depth)]
        neurons = [self.neurons_of(layer) for layer in range(self.depth)]
        for group in groups:
            for layer in cast(tuple[int, ...], group.layers):
                form = cast(Narrow, group.form)
                if set(ATTENTION) <= set(group.parts):
                    heads[layer] = form.kept(heads[layer])
                if set(FFN) <= set(group.parts):
                    neurons[layer] = 8 * form.kept(neurons[layer] // 8)
        return replace(self, heads=tuple(heads), neurons=tuple(neurons))


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
    units: Literal["first", "best-match", "importance"] = "importance"
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
        if isinstance(self.form, Narrow):
            self._refuse_beside_width()
        if is_absolute(self.layers):
            self.runs()
        if self.is_settled:
            self.assign.owners(len(self.layers))
            self.spans()
        return self

    def _refuse_beside_width(self) -> None:
        """Refuses what a group that narrows its layers cannot say."""
        whole = read_parts([part for part, roles in PARTS.items() if set(roles) & set(self.parts)])
        if whole != self.parts:
            raise PlanError(
                f"narrow takes whole parts, but got parts {write_parts(self.parts)}",
                "write attention, ffn or both",
            )
        if self.times > 1:
            raise PlanError(
                f"narrow says how wide layers are, but got times: {self.times}",
                "give times in a group of its own: {layers: .., times: .., assign: each}",
            )

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

    def spans(self) -> dict[int, tuple[int, ...]]:
        """For each layer that takes the place of adjacent ones, all of these, itself among them;
        of a group with settled banks."""
        if not isinstance(self.form, Merge):
            return {}
        spans = {}
        for own, init in zip(self.readers(), self.inits(), strict=True):
            if own[-1] - own[0] >= len(own):
                raise PlanError(
                    f"a layer can take the place of adjacent ones only, but got {runs(own)}",
                    "give each run of layers a group of its own",
                )
            if isinstance(init, int) and init not in own:
                raise PlanError(
                    f"a merge of layers {runs(own)} must start from one of them, but got "
                    f"init: {init}",
                    "write init: first, middle, last or mean",
                )
            spans[start_of("first" if init == "mean" else init, own)(own)] = own
        return spans

    def removed(self) -> tuple[int, ...]:
        """The layers that do not run, of a group with settled banks."""
        if not self.form.removes_layers:
            return ()
        staying = self.spans()
        return tuple(int(layer) for layer in self.layers if layer not in staying)

    @property
    def is_settled(self) -> bool:
        """Whether its banks are known without a model."""
        return is_absolute(self.layers) and self.assign.name != "similar"

    def bound(self, stack: str, shape: StackShape) -> "Group":
        """The group with absolute layers in a stack of this shape."""
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
            }
        )

    def rounded(self, shape: StackShape) -> "list[Group]":
        """The bound group, in as many as there are widths, with knobs that a stack of this shape
        can reach. Raises :class:`PlanError` where layers that share differ in width."""
        if isinstance(self.form, Narrow):
            return self._rounded_widths(shape)
        if shape.is_uniform or not self.form.shares:
            return [self._rounded_alike(shape)]
        banks = self.banks()
        for bank in banks:
            bank._refuse_unequal(shape)
        return [bank._rounded_alike(shape) for bank in banks]

    def _rounded_alike(self, shape: StackShape) -> "Group":
        units = shape.units(self.parts, int(self.layers[0]))
        return self.model_copy(update={"form": self.form.rounded(units)})

    def _rounded_widths(self, shape: StackShape) -> "list[Group]":
        """One group for each part and each fraction that its layers can keep."""
        layers: dict[tuple[tuple[str, ...], Form], list[int]] = defaultdict(list)
        for roles in PARTS.values():
            if set(roles) <= set(self.parts):
                for layer in cast(tuple[int, ...], self.layers):
                    layers[roles, self.form.rounded(shape.units(roles, layer))].append(layer)
        return [
            self.model_copy(update={"layers": tuple(own), "parts": roles, "form": form})
            for (roles, form), own in layers.items()
        ]

    def _refuse_unequal(self, shape: StackShape) -> None:
        banks = [
            {*own, init} if isinstance(init, int) else set(own)
            for own, init in zip(self.readers(), self.inits(), strict=True)
        ]
        for members in [set().union(*banks)] if self.matches_units else banks:
            widths = {layer: shape.units(self.parts, layer) for layer in members}
            if len(set(widths.values())) > 1:
                first = min(members)
                other = next(i for i in sorted(members) if widths[i] != widths[first])
                raise PlanError(
                    f"layers that share must be of one width, but layer {first} of stack "
                    f"{self.stack!r} has {_width_text(self, shape, first)} and layer {other} "
                    f"{_width_text(self, shape, other)}",
                    "share layers of one width, parts of one width, or narrow them alike",
                )

    def _found_assignment(self, layers: tuple[int, ...], shape: StackShape) -> Assignment:
        """The assignment, with an owner map in place of one that is found by similarity."""
        if self.assign.name != "similar":
            return self.assign
        if shape.similarity is None:
            self.assign.owners(len(layers))
        assert shape.similarity is not None
        alike = [[shape.similarity[i][j] for j in layers] for i in layers]
        return Assignment("owners", most_alike(alike, cast(int, self.assign.argument)))

    def banks(self) -> "list[Group]":
        """One group a bank, or for layers that run several times one group a run of them at
        least; layers that share with no other are left out."""
        form = self.form.canonical()
        if self.times > 1:
            return self._looped(form)
        if form is None:
            return []
        if isinstance(form, Drop):
            return [Group(stack=self.stack, layers=self.layers, form=form)]
        if isinstance(form, Narrow):
            plain = Group(stack=self.stack, layers=self.layers, form=form)
            return [plain.model_copy(update={"parts": self.parts})]
        if isinstance(form, Merge):
            return self._merged(form)
        bank: dict[str, Any] = {"assign": Assignment(), "form": form} | self._heeded(form)
        inits = self.inits() if "init" in form.heeds else [bank["init"]] * len(self.readers())
        return [
            self.model_copy(update=bank | {"layers": own, "init": init})
            for own, init in zip(self.readers(), inits, strict=True)
            if len(own) > 1
        ]

    def _merged(self, form: Merge) -> "list[Group]":
        """One group a layer that takes the place of several."""
        units = Group.model_fields["units"].default
        rules = [
            {"layers": own, "init": init} | ({} if init == "mean" else {"units": units})
            for own, init in zip(self.spans().values(), self.inits(), strict=True)
            if len(own) > 1
        ]
        plain = Group(stack=self.stack, layers=self.layers, form=form)
        return [plain.model_copy(update=self._heeded(form) | rule) for rule in rules]

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
        starts_apart = isinstance(self.form, Merge) and self.init != "mean"
        heeds = "units" in self.form.heeds and not (self.only_loops or starts_apart)
        return self.units != "first" and heeds

    def _heeded(self, form: Form) -> dict[str, Any]:
        """`init` and `units` as far as the form goes by them, else their defaults."""
        defaults = {name: Group.model_fields[name].default for name in ("init", "units")}
        heeded = {name: getattr(self, name) for name in defaults if name in form.heeds}
        if isinstance(form, Tie | Reuse | Merge) and self.units != "first":
            heeded["units"] = "importance"
        return defaults | heeded

    def __str__(self) -> str:
        where = self.layers if isinstance(self.layers, str) else runs(self.layers)
        stack = f"{self.stack} " if self.stack else ""
        if isinstance(self.form, Drop):
            return f"{stack}{where} {self.form.name}"
        knobs = " ".join(map(_knob_text, self.form.model_dump(exclude_defaults=True).items()))
        form = f"{self.form.name} {knobs}".strip()
        units = "" if self.units == "importance" else f" by {self.units}"
        parts = "" if self.form.removes_layers else f" {'+'.join(write_parts(self.parts))}"
        starts = self.form.shares or "init" in self.form.heeds
        start = f"{parts} from {self._init_text()}{units}" if starts else parts
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
        groups = []
        for group in self.groups:
            name = _stack_of(group, stacks)
            groups.append(group.bound(name, stacks[name]))
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
        """Return the stacks' shapes once the bound plan's narrow groups are gone through."""
        narrow = [group for group in self.groups if isinstance(group.form, Narrow)]
        return dict(stacks) | _shapes_left(narrow, stacks)

    def spans(self, stack: str) -> dict[int, tuple[int, ...]]:
        """For each layer of a stack that does the work of adjacent ones, all of these in order,
        itself among them. The plan is bound."""
        own = [group for group in self.groups if group.stack == stack]
        return {layer: span for group in own for layer, span in group.spans().items()}

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
        removed = {i for group in own for i in group.removed()}
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


def _narrow(group: Group, stacks: Mapping[str, StackShape]) -> list[Group]:
    return group.rounded(stacks[group.stack or ""]) if isinstance(group.form, Narrow) else []


def _shapes_left(
    narrow: Iterable[Group], stacks: Mapping[str, StackShape]
) -> dict[str, StackShape]:
    own: dict[str, list[Group]] = defaultdict(list)
    for group in narrow:
        own[group.stack or ""].append(group)
    return {name: stacks[name].narrowed(groups) for name, groups in own.items()}


def _width_text(group: Group, shape: StackShape, layer: int) -> str:
    heads = f"{shape.heads_of(layer)} heads" if set(group.parts) & set(ATTENTION) else ""
    neurons = f"{shape.neurons_of(layer)} neurons" if set(group.parts) & set(FFN) else ""
    return " and ".join(filter(None, (heads, neurons)))


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
    settled = _one_narrow_a_width(_one_drop_a_stack(canonical))
    return tuple(sorted(_without_idle_loops(settled), key=_order))


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
        if isinstance(group.form, Drop) and is_absolute(group.layers):
            dropped[group.stack].extend(cast(tuple[int, ...], group.layers))
        else:
            kept.append(group)
    return kept + [
        Group(stack=stack, layers=tuple(layers), form=Drop()) for stack, layers in dropped.items()
    ]


def _one_narrow_a_width(groups: list[Group]) -> list[Group]:
    """One group for all layers and parts of a stack that keep the same fraction of their units."""
    kept: list[Group] = []
    layers: dict[tuple[str | None, Form, str], set[int]] = defaultdict(set)
    for group in groups:
        if not isinstance(group.form, Narrow) or not is_absolute(group.layers):
            kept.append(group)
            continue
        for part, roles in PARTS.items():
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
    """A narrowed layer may share what is left of it, but it must be there."""
    removed = {i for group in (one, two) if group.is_settled for i in group.removed()}
    layers = sorted(removed & set(one.layers) & set(two.layers))
    if layers:
        raise PlanError(
            f"groups must not overlap, but layers {runs(layers)} are removed in one and narrowed "
            "in another",
            "narrow layers that stay",
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
