"""Describe a group: layers of one stack, the parts they share or lose, and in which form."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator

from sharetune.spaces.assignments import Assignment, AssignmentField
from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import Drop, Form, FormField, Merge, Narrow, Tie
from sharetune.spaces.inits import INITS, shortest_init, start_of, step
from sharetune.spaces.layers import MOST_LAYERS, Layers, is_absolute, resolve_layers, runs
from sharetune.spaces.parts import (
    ATTENTION,
    EXPERTS,
    FFN,
    NARROWED,
    PARTS,
    WHOLE,
    Parts,
    read_parts,
    write_parts,
)
from sharetune.spaces.settings import StrictModel
from sharetune.spaces.stack_shape import StackShape
from sharetune.spaces.units import UNITS, UnitsName

MOST_TIMES = 256
"""Times that layers may run: several times as often as in any model that was published."""


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


def _width_text(group: Group, shape: StackShape, layer: int) -> str:
    heads = f"{shape.heads_of(layer)} heads" if set(group.parts) & set(ATTENTION) else ""
    neurons = f"{shape.neurons_of(layer)} neurons" if set(group.parts) & set(FFN) else ""
    experts = f"{shape.experts_of(layer)} experts" if EXPERTS in group.parts else ""
    return " and ".join(filter(None, (heads, neurons, experts)))
