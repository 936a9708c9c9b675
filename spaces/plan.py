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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from sharetune.spaces.assignments import Assignment, AssignmentField
from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import Bank, Drop, Form, FormField, Merge, Narrow, Tie
from sharetune.spaces.inits import INITS, shortest_init, start_of, step
from sharetune.spaces.layers import MOST_LAYERS, Layers, is_absolute, resolve_layers, runs
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.settings import StrictModel, read_settings, reader, reason
from sharetune.spaces.texts import shown
from sharetune.spaces.units import UNITS, UnitsName
from sharetune.spaces.yaml_text import read_yaml, write_yaml

ATTENTION = ("q", "k", "v", "o")
"""Roles of an attention's matrices: query, key, value and output projection."""

FFN = ("fc_in", "gate", "fc_out")
"""Roles of an FFN's matrices; models without a gated FFN have no `gate`."""

EXPERTS = "experts"
"""The role of all experts of a mixture, which layers share whole or keep a fraction of."""

WHOLE = ("norms", EXPERTS)
"""Roles that layers share whole or not at all."""

PARTS: dict[str, tuple[str, ...]] = {"attention": ATTENTION, "ffn": FFN}
"""Names for several roles at once."""

NARROWED: dict[str, tuple[str, ...]] = {**PARTS, EXPERTS: (EXPERTS,)}
"""Parts of whose units a layer may keep a fraction, with their roles."""

ONLY_WHOLE = "layers"
"""The name of a model's only list of layers of one kind, which plans need not name."""

MOST_TIMES = 256
"""Times that layers may run: several times as often as in any model that was published."""

ROLES = (*ATTENTION, *FFN, "norms", "biases", EXPERTS)
"""All roles of a layer, in canonical order."""


def read_parts(value: Any) -> tuple[str, ...]:
    """Read roles from ``attention``, ``ffn``, ``norms``, ``biases``, ``experts`` or single ones."""
    names = [value] if isinstance(value, str) else list(value)
    roles: set[str] = set()
    for name in names:
        if not isinstance(name, str) or (name not in PARTS and name not in ROLES):
            raise PlanError(
                f"unknown part: {shown(name)}", did_you_mean(str(name), [*PARTS, *ROLES])
            )
        roles.update(PARTS.get(name, (name,)))
    if not roles & {*ATTENTION, *FFN, EXPERTS}:
        raise PlanError(
            f"a group must share at least one matrix, but got parts {shown(names)}",
            f"add attention, ffn, {EXPERTS} or one of {', '.join(ATTENTION + FFN)}",
        )
    return tuple(role for role in ROLES if role in roles)


def write_parts(roles: tuple[str, ...]) -> list[str]:
    """Write `roles` as the shortest list of names that :func:`read_parts` reads back."""
    names: list[str] = []
    rest = list(roles)
    for part, members in PARTS.items():
        if set(members) <= set(rest):
            names.append(part)
            rest = [role for role in rest if role not in members]
    return names + rest


Parts = Annotated[
    tuple[str, ...], BeforeValidator(reader(read_parts)), PlainSerializer(write_parts)
]


@dataclass(frozen=True)
class StackShape:
    """The sizes of one stack of layers that a plan is bound to.

    `depth` counts layers, `heads` the units of attention (KV groups under grouped-query
    attention), `neurons` the width of the FFN's intermediate layer: one number, or one for each
    layer where they differ. `similarity`, where it was measured, is the linear CKA (0..1) of each
    two layers' outputs. `experts` counts those of a mixture, 0 where there is none.
    """

    depth: int
    heads: int | tuple[int, ...]
    neurons: int | tuple[int, ...]
    similarity: tuple[tuple[float, ...], ...] | None = None
    experts: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        for name in ("heads", "neurons", "experts"):
            counts = getattr(self, name)
            if not isinstance(counts, int):
                equal = len(set(counts)) == 1
                object.__setattr__(self, name, counts[0] if equal else tuple(counts))

    @property
    def is_uniform(self) -> bool:
        """Whether all layers are of one width."""
        counts = self.heads, self.neurons, self.experts
        return all(isinstance(count, int) for count in counts)

    def heads_of(self, layer: int) -> int:
        """Return the units of attention in `layer`."""
        return self.heads if isinstance(self.heads, int) else self.heads[layer]

    def neurons_of(self, layer: int) -> int:
        """Return the width of the FFN in `layer`."""
        return self.neurons if isinstance(self.neurons, int) else self.neurons[layer]

    def experts_of(self, layer: int) -> int:
        """Return the number of experts in `layer`, 0 if it has no mixture."""
        return self.experts if isinstance(self.experts, int) else self.experts[layer]

    def units(self, roles: Iterable[str], layer: int = 0) -> tuple[int, ...]:
        """Return the numbers of units a ratio is rounded to: heads, neurons in eights, experts."""
        roles = set(roles)
        attention = (self.heads_of(layer),) if roles & set(ATTENTION) else ()
        neurons = (self.neurons_of(layer) // 8,) if roles & set(FFN) else ()
        return attention + neurons + ((self.experts_of(layer),) if EXPERTS in roles else ())

    def lacking_parts(self) -> list[str]:
        """Return the parts, `attention` or `ffn`, of which no layer has one of a known kind.

        Plans leave them as they are.
        """
        counts = {"attention": map(self.heads_of, range(self.depth))}
        counts["ffn"] = map(self.neurons_of, range(self.depth))
        return [part for part, units in counts.items() if not any(units)]

    def at(self, order: Sequence[int]) -> "StackShape":
        """Return the shape of a stack in which these layers of it run."""
        counts = map(self.heads_of, order), map(self.neurons_of, order), map(self.experts_of, order)
        heads, neurons, experts = map(tuple, counts)
        return StackShape(len(order), heads, neurons, experts=experts)

    def narrowed(
        self, layers: Iterable[int], parts: Collection[str], form: Narrow
    ) -> "StackShape":
        """Return the shape that is left where `layers` keep `form`'s fraction of these parts."""
        heads = [self.heads_of(layer) for layer in range(self.depth)]
        neurons = [self.neurons_of(layer) for layer in range(self.depth)]
        experts = [self.experts_of(layer) for layer in range(self.depth)]
        for layer in layers:
            if set(ATTENTION) <= set(parts):
                heads[layer] = form.kept(heads[layer])
            if set(FFN) <= set(parts):
                neurons[layer] = 8 * form.kept(neurons[layer] // 8)
            if EXPERTS in parts:
                experts[layer] = form.kept(experts[layer])
        widths = {"heads": tuple(heads), "neurons": tuple(neurons), "experts": tuple(experts)}
        return replace(self, **widths)  # type: ignore[arg-type]


def lacking_parts(stacks: Mapping[str, StackShape]) -> dict[str, list[str]]:
    """Return the parts of no known kind by stack, see :meth:`StackShape.lacking_parts`."""
    return {name: shape.lacking_parts() for name, shape in stacks.items()}


class Group(StrictModel):
    """A set of layers of one stack that share by one rule."""

    layers: Layers = Field(
        description="Layers of the stack (0-based): a range as `1..4` (inclusive, negatives count "
        "from the end), `all`, or a list."
    )
    stack: str | None = Field(
        None,
        description="The stack's name; needed only where the model has several stacks. A list of "
        "layers of several kinds holds one of each, such as `layers[attention]`.",
    )
    parts: Parts = Field(
        (*ATTENTION, *FFN),
        description="Parts of each layer that are shared: `attention`, `ffn`, `norms`, `biases`, "
        "`experts` or single matrices.",
    )
    assign: AssignmentField = Field(
        Assignment(), description="Assignment of the layers to banks: a name, or `name: argument`."
    )
    form: FormField = Field(
        Tie(), description="Form in which layers read their bank: a name, or `name: knobs`."
    )
    init: str | Annotated[int, Field(ge=0, lt=MOST_LAYERS)] = Field(
        "mean",
        description="Pretrained weights a bank starts from: an init's name, or a layer's number "
        "(0-based).",
    )
    units: UnitsName = Field(
        "importance",
        description="Heads and neurons that are shared: the `first` in their stored order, those "
        "that match best across the layers (`best-match`), or the least important, matched "
        "(`importance`).",
    )
    times: int = Field(
        1, ge=1, le=MOST_TIMES, description="Times that the layers run in each forward pass."
    )
    order: Literal["block", "layer"] = Field(
        "block",
        description="Order of repeated runs: all layers as one `block`, or each `layer` repeated "
        "in place.",
    )

    @model_validator(mode="after")
    def _check(self) -> "Group":
        if isinstance(self.init, str):
            INITS[self.init]
        kept = (EXPERTS,) if isinstance(self.form, Narrow) else ()
        whole = [role for role in WHOLE if role in self.parts and role not in kept]
        if whole and not isinstance(self.form.canonical(), Tie | None):
            raise PlanError(
                f"{whole[0]} can only be shared whole, but the form is {self.form.name}",
                f"use form: tie, or leave {whole[0]} out of parts",
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
            self.form.check(len(self.layers))
        if self.is_settled:
            self.assign.owners(len(self.layers))
            self.spans()
        return self

    def _refuse_beside_width(self) -> None:
        """Refuse settings that a group that narrows its layers cannot have."""
        named = [part for part, roles in NARROWED.items() if set(roles) & set(self.parts)]
        whole = read_parts(named)
        if whole != self.parts:
            raise PlanError(
                f"narrow takes whole parts, but got parts {write_parts(self.parts)}",
                f"write {', '.join(NARROWED)}, or several of them",
            )
        if self.times > 1:
            raise PlanError(
                f"narrow says how wide layers are, but got times: {self.times}",
                "give times in a group of its own: {layers: .., times: .., assign: each}",
            )

    def _take_roles(self) -> None:
        """Narrow `parts` to the form's roles, if it shares only those."""
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
        """Return the runs of adjacent layers that are repeated together; none if all run once."""
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
        """Return the layers that read each bank, of a group with absolute layers."""
        readers: dict[int, list[int]] = defaultdict(list)
        layers = cast(tuple[int, ...], self.layers)
        for layer, owner in zip(layers, self.assign.owners(len(layers)), strict=True):
            readers[owner].append(layer)
        return [tuple(own) for own in readers.values()]

    def inits(self) -> list[str | int]:
        """Return the init of each bank, of a group with absolute layers."""
        banks = self.readers()
        return [shortest_init(start, own) for start, own in zip(self._starts(), banks, strict=True)]

    def _starts(self) -> list[str | int]:
        """Return the init of each bank, as it is written or by its layer's number."""
        layers, banks = cast(tuple[int, ...], self.layers), len(self.readers())
        steps: list[str | int] = [layers[step(k, banks, len(layers))] for k in range(banks)]
        return steps if self.init == "stepwise" else [self.init] * banks

    def spans(self) -> dict[int, tuple[int, ...]]:
        """Return, for each layer that takes the place of adjacent ones, all of these in order.

        The banks of the group are settled. Raises :class:`PlanError` for layers that are not
        adjacent and for a start that is not one of them.
        """
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
        """Return the layers that do not run, of a group with settled banks."""
        if not self.form.removes_layers:
            return ()
        staying = self.spans()
        return tuple(int(layer) for layer in self.layers if layer not in staying)

    @property
    def is_settled(self) -> bool:
        """Return whether the group's banks are known without a model."""
        return is_absolute(self.layers) and self.assign.find is None

    def bound(self, stack: str, shape: StackShape) -> "Group":
        """Return the group with absolute layers in a stack of this shape."""
        layers = resolve_layers(self.layers, shape.depth, stack)
        self.form.check(len(layers))
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

    def within(self, shape: StackShape) -> "Group":
        """Return the bound group with those of its parts that a stack of this shape has.

        Attention or FFN of an unknown kind, such as the experts of a mixture, are not shared.
        Raises :class:`PlanError` if none of the parts is there.
        """
        if self.form.removes_layers or (self.form.canonical() is None and self.times == 1):
            return self
        if isinstance(self.form, Narrow) and EXPERTS in self.parts:
            self._refuse_without_experts(shape)
        lacking = {role for part in shape.lacking_parts() for role in PARTS[part]}
        roles = tuple(role for role in self.parts if role not in lacking)
        if not set(roles) & {*ATTENTION, *FFN, EXPERTS}:
            present = [part for part in PARTS if part not in shape.lacking_parts()]
            raise PlanError(
                f"stack {self.stack!r} has none of the parts {write_parts(self.parts)} of a known "
                "kind",
                f"it has {', '.join(present) or 'no matrices of a known kind'}; layers can be "
                "dropped or merged",
            )
        return self.model_copy(update={"parts": roles})

    def _refuse_without_experts(self, shape: StackShape) -> None:
        layers = cast(tuple[int, ...], self.layers)
        without = [layer for layer in layers if not shape.experts_of(layer)]
        if without:
            raise PlanError(
                f"layers {runs(without)} of stack {self.stack!r} have no experts of a known kind",
                f"leave {EXPERTS} out of parts, or name other layers",
            )

    def rounded(self, shape: StackShape) -> "list[Group]":
        """Return the bound group, one for each width, with knobs rounded to a stack of this shape.

        Raises :class:`PlanError` where layers that share differ in width.
        """
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
        """Return one group for each part and each fraction that its layers can keep."""
        layers: dict[tuple[tuple[str, ...], Form], list[int]] = defaultdict(list)
        for roles in NARROWED.values():
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
        """Return the assignment, or the owner map that it finds from the similarities."""
        if self.assign.find is None:
            return self.assign
        if shape.similarity is None:
            self.assign.owners(len(layers))
        assert shape.similarity is not None
        alike = [[shape.similarity[i][j] for j in layers] for i in layers]
        return Assignment("owners", self.assign.find(alike, self.assign.argument))

    def banks(self) -> "list[Group]":
        """Split the group into one group for each bank.

        Layers that run several times stay at least one group for each run. Layers that share with
        no other are left out.
        """
        if self.times > 1:
            return self._looped(self._canonical_form())
        if self.form.shares:
            banks = zip(self.readers(), self._starts(), strict=True)
            return [bank for own, start in banks for bank in self._bank(own, start)]
        form = self.form.canonical()
        if form is None:
            return []
        if isinstance(form, Merge):
            return self._merged(form)
        plain = Group(stack=self.stack, layers=self.layers, form=form)
        parts = {"parts": self.parts} if isinstance(form, Narrow) else {}
        return [plain.model_copy(update=parts)]

    def _bank(self, own: tuple[int, ...], start: str | int) -> Iterator["Group"]:
        """Yield the bank that the layers `own` read, with `start` as its init, if two share."""
        form = self.form.of(self._places(own)).canonical()
        if form is None or len(own) == 1:
            return
        reading = [place for place in range(len(own)) if form.share(place) > 0]
        layers = tuple(own[place] for place in reading)
        form = cast(Form, form.of(reading).canonical())
        bank = {"layers": layers, "assign": Assignment(), "form": form} | self._used_rules(form)
        if "init" in form.group_rules:
            bank["init"] = shortest_init(start, layers)
        yield self.model_copy(update=bank)

    def _places(self, layers: Iterable[int]) -> list[int]:
        """Return the places of `layers` in the group."""
        return [self.layers.index(layer) for layer in layers]  # type: ignore[arg-type]

    def form_of(self, layers: Iterable[int]) -> Form:
        """Return the form of these of the group's layers, in the order given."""
        return self.form.of(self._places(layers))

    def _canonical_form(self) -> Form | None:
        """Return the canonical form; several banks of unlike ratios keep it as it is written."""
        alone = len(self.readers()) == 1 or self.form.of((0,)) is self.form
        return self.form.canonical() if alone else self.form

    def _merged(self, form: Merge) -> "list[Group]":
        """Return one group for each layer that takes the place of several."""
        units = Group.model_fields["units"].default
        rules = [
            {"layers": own, "init": init} | ({} if init == "mean" else {"units": units})
            for own, init in zip(self.spans().values(), self.inits(), strict=True)
            if len(own) > 1
        ]
        plain = Group(stack=self.stack, layers=self.layers, form=form)
        return [plain.model_copy(update=self._used_rules(form) | rule) for rule in rules]

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
            rule = {"assign": assign, "form": form} | self._used_rules(form) | start
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
        """Return whether a canonical group only repeats its layers and shares nothing."""
        apart = self.assign.name == "each" or len(self.layers) == 1
        return self.times > 1 and apart and isinstance(self.form, Tie)

    @property
    def learns_locally(self) -> bool:
        """Return whether the group's new weights can learn from hidden states before training."""
        return self.form.learns_locally and self.times == 1

    @property
    def matches_units(self) -> bool:
        """Return whether the units of a canonical group are matched across its layers."""
        starts_apart = isinstance(self.form, Merge) and self.init != "mean"
        goes_by_units = "units" in self.form.group_rules and not (self.only_loops or starts_apart)
        return UNITS[self.units].matches and goes_by_units

    def _used_rules(self, form: Form) -> dict[str, Any]:
        """Return `init` and `units` where the form uses them, else their defaults."""
        defaults = {name: Group.model_fields[name].default for name in ("init", "units")}
        used = {name: getattr(self, name) for name in defaults if name in form.group_rules}
        if form.whole and UNITS[self.units].matches:
            used["units"] = defaults["units"]
        return defaults | used

    def __str__(self) -> str:
        where = self.layers if isinstance(self.layers, str) else runs(self.layers)
        stack = f"{self.stack} " if self.stack else ""
        if isinstance(self.form, Drop):
            return f"{stack}{where} {self.form.name}"
        knobs = " ".join(map(_knob_text, self.form.model_dump(exclude_defaults=True).items()))
        form = f"{self.form.name} {knobs}".strip()
        units = "" if self.units == "importance" else f" by {self.units}"
        parts = "" if self.form.removes_layers else f" {'+'.join(write_parts(self.parts))}"
        starts = self.form.shares or "init" in self.form.group_rules
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
    if isinstance(value, tuple):
        return ",".join(f"{one:g}" for one in value)
    return name if value is True else f"{value:g}" if isinstance(value, float) else str(value)


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


def _width_text(group: Group, shape: StackShape, layer: int) -> str:
    heads = f"{shape.heads_of(layer)} heads" if set(group.parts) & set(ATTENTION) else ""
    neurons = f"{shape.neurons_of(layer)} neurons" if set(group.parts) & set(FFN) else ""
    experts = f"{shape.experts_of(layer)} experts" if EXPERTS in group.parts else ""
    return " and ".join(filter(None, (heads, neurons, experts)))


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
