"""Spaces: the ranges from which candidates are drawn, in Optuna's define-by-run style.

Every leaf of a plan or a recipe is a value, a range ``{low, high, step | log}`` or
``{choices: [...]}``, whose choices may hold ranges themselves, or a list of leaves. In a group's
keys ``{each: leaf}`` is a list with one draw for each of its layers. Groups are placed from left to
right inside their region, so that no draw can overlap.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Annotated, Any, Protocol, TypeGuard, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ConfigError, SharetuneError
from sharetune.spaces.group import Group
from sharetune.spaces.layers import MOST_LAYERS, Layers, resolve_layers
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.recipe import Candidate, Recipe
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.settings import StrictModel, reader, validated
from sharetune.spaces.stack_shape import StackShape
from sharetune.spaces.texts import shown
from sharetune.spaces.yaml_text import LARGEST, as_number

DRAWN = ("parts", "assign", "form", "init", "units", "times", "order")
"""Keys of a template that are drawn once for each group, in this order; samplers rely on it."""

MOST_STEPS = 1_000_000
"""Values of a range with steps."""

MOST_CHOICES = 2_000
"""Choices inside a leaf, each of which is tried when a space is checked."""

MOST_GROUPS = 1_000
"""Groups of one template."""

SOMEWHERE = 0.381966
"""A place inside a range, as a fraction of it, that is unlikely to be a whole number."""

LEAF = "write a value, {low: .., high: ..} with step or log, or {choices: [..]}"
"""Hint of every error about a leaf."""


class Trial(Protocol):
    """The methods of an Optuna trial that a space draws with."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float: ...
    def suggest_categorical(self, name: str, choices: list[str]) -> str: ...


class Corner:
    """A trial at a corner: the lowest or highest value, and the first or last choice."""

    def __init__(self, *, high: bool) -> None:
        self.high = high

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return high if self.high else low

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        return high if self.high else low

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        return choices[-self.high]


def alternatives(leaf: Any) -> list[Any]:
    """List values of `leaf` that together take each choice inside it, and both ends of each range.

    Parts of a section or a list change together, so that there are few. Raises
    :class:`ConfigError` if there are too many.
    """
    if is_choice(leaf):
        found = [value for choice in leaf["choices"] for value in alternatives(choice)]
    elif is_range(leaf):
        found = _values_of_range(leaf)
    elif isinstance(leaf, dict):
        found = [dict(zip(leaf, values, strict=True)) for values in _together(leaf.values())]
    elif isinstance(leaf, list):
        found = [list(values) for values in _together(leaf)]
    else:
        found = [leaf]
    if len(found) > MOST_CHOICES:
        raise ConfigError(f"a leaf has {len(found):,} choices, at most {MOST_CHOICES:,}", LEAF)
    return found


def _values_of_range(leaf: Mapping[str, Any]) -> list[int | float]:
    """Return both ends of a range, and a number between them where not only whole ones are."""
    low, high, step = leaf["low"], leaf["high"], leaf.get("step")
    if _is_whole(leaf):
        return [low, high]
    between = low + (SOMEWHERE * (high - low) if step is None else step)
    return [float(low), *([float(between)] if low < between < high else []), float(high)]


def _is_whole(leaf: Mapping[str, Any]) -> bool:
    """Return whether all numbers of a range are whole."""
    return all(isinstance(v, int) for v in (leaf["low"], leaf["high"], leaf.get("step") or 1))


def _together(leaves: Iterable[Any]) -> list[tuple[Any, ...]]:
    """List values of all `leaves` at once: their first alternatives, their second, and so on."""
    return _in_step([alternatives(leaf) for leaf in leaves])


def _in_step(lists: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """List the first of all `lists`, their second, and so on; a shorter one repeats its last."""
    most = max(map(len, lists), default=1)
    return [tuple(own[min(i, len(own) - 1)] for own in lists) for i in range(most)]


def is_range(leaf: object) -> bool:
    """Return whether `leaf` is a range of numbers."""
    return isinstance(leaf, dict) and "low" in leaf


def is_choice(leaf: object) -> bool:
    """Return whether `leaf` is a choice among leaves."""
    return isinstance(leaf, dict) and "choices" in leaf


def check_leaf(leaf: Any, name: str) -> Any:
    """Check all ranges and choices inside `leaf` and return it; raises :class:`ConfigError`."""
    if is_choice(leaf):
        choices = leaf["choices"]
        if set(leaf) != {"choices"} or not isinstance(choices, list) or not choices:
            raise ConfigError(
                f"{name}: choices must be a non-empty list, but got {shown(leaf)}", LEAF
            )
        for choice in leaf["choices"]:
            check_leaf(choice, name)
    elif is_range(leaf) or (isinstance(leaf, dict) and "high" in leaf):
        _check_range(leaf, name)
    elif isinstance(leaf, dict):
        for key, child in leaf.items():
            check_leaf(child, f"{name}.{key}")
    elif isinstance(leaf, list):
        for child in leaf:
            check_leaf(child, name)
    elif isinstance(leaf, float) and not isfinite(leaf):
        raise ConfigError(f"{name}: numbers must be finite, but got {leaf}", LEAF)
    elif isinstance(leaf, int) and abs(leaf) > LARGEST:
        raise ConfigError(f"{name}: numbers are at most {LARGEST:,}, but got {shown(leaf)}", LEAF)
    return leaf


def _check_range(leaf: dict[str, Any], name: str) -> None:
    unknown = set(leaf) - {"low", "high", "step", "log"}
    if unknown:
        raise ConfigError(
            f"{name}: unknown key in a range: {min(unknown)!r}",
            did_you_mean(min(unknown), ["low", "high", "step", "log"]),
        )
    low, high = leaf.get("low"), leaf.get("high")
    if not _is_finite(low) or not _is_finite(high):
        raise ConfigError(f"{name}: low and high must be numbers, but got {shown(leaf)}", LEAF)
    if low > high:
        raise ConfigError(f"{name}: `low <= high` must hold, but got {shown(leaf)}", LEAF)
    log, step = leaf.get("log"), leaf.get("step")
    if not isinstance(log, bool | None):
        raise ConfigError(f"{name}: log must be true or false, but got {shown(leaf)}", LEAF)
    if log and (step is not None or low <= 0):
        raise ConfigError(f"{name}: log needs `0 < low` and no step, but got {shown(leaf)}", LEAF)
    if step is not None and not (
        _is_finite(step) and step > 0 and (high - low) / step <= MOST_STEPS
    ):
        raise ConfigError(
            f"{name}: `0 < step` and at most {MOST_STEPS:,} steps must hold, but got {shown(leaf)}",
            LEAF,
        )


def _is_finite(value: Any) -> TypeGuard[int | float]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    most = LARGEST if isinstance(value, int) else sys.float_info.max
    return is_number and abs(value) <= most


def with_numbers(data: object) -> Any:
    """Return `data` with the bounds and steps of all ranges inside as numbers, also if texts.

    A YAML reader of version 1.1 makes a text of 1e-5.
    """
    if isinstance(data, list | tuple):
        return [with_numbers(each) for each in data]
    if not isinstance(data, dict):
        return data
    bounds = ("low", "high", "step") if "low" in data or "high" in data else ()
    return {
        key: as_number(value) if key in bounds else with_numbers(value)
        for key, value in data.items()
    }


def draw(leaf: Any, trial: Trial, name: str) -> Any:
    """Draw a value of `leaf`; Optuna's parameters are named by their dotted place in `name`."""
    if is_choice(leaf):
        labels = choice_labels(leaf["choices"])
        picked = trial.suggest_categorical(name, labels)
        return draw(leaf["choices"][labels.index(picked)], trial, name)
    if is_range(leaf):
        return _draw_number(leaf, trial, name)
    if isinstance(leaf, dict):
        return {key: draw(child, trial, f"{name}.{key}") for key, child in leaf.items()}
    if isinstance(leaf, list):
        return [draw(child, trial, f"{name}.{place}") for place, child in enumerate(leaf)]
    return leaf


def is_each(leaf: Any) -> bool:
    """Return whether `leaf` stands for one leaf for each layer of a group."""
    return isinstance(leaf, dict) and set(leaf) == {"each"}


def _for_layers(leaf: Any, count: int) -> Any:
    """Return `leaf` with one leaf for each of `count` layers where it says so."""
    if is_each(leaf):
        return [leaf["each"]] * count
    if is_choice(leaf):
        return {"choices": [_for_layers(choice, count) for choice in leaf["choices"]]}
    if isinstance(leaf, dict):
        return {key: _for_layers(child, count) for key, child in leaf.items()}
    return leaf


def _draw_number(leaf: dict[str, Any], trial: Trial, name: str) -> int | float:
    low, high, log = leaf["low"], leaf["high"], bool(leaf.get("log"))
    step = leaf.get("step")
    if _is_whole(leaf):
        return trial.suggest_int(name, low, high, step=step or 1, log=log)
    value = trial.suggest_float(name, float(low), float(high), step=step, log=log)
    return round(value, 12) if step else value


def choice_labels(choices: list[Any]) -> list[str]:
    """Write a short, unique text for each choice, as it is stored with the trial."""
    labels = [_label(choice) for choice in choices]
    return [label if labels.count(label) == 1 else f"{label}#{i}" for i, label in enumerate(labels)]


def _label(choice: object) -> str:
    if isinstance(choice, dict) and len(choice) == 1:
        (key, value) = next(iter(choice.items()))
        return f"{key} {value}" if isinstance(value, int | float | str) else str(key)
    if isinstance(choice, list | tuple):
        return "+".join(map(str, choice))
    return _yaml_text(choice) if isinstance(choice, dict) else _scalar_text(choice)


@lru_cache(maxsize=1024, typed=True)
def _scalar_text(value: str | float | bool | None) -> str:
    return _yaml_text(value)


def _yaml_text(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()


class Region(StrictModel):
    """Layers in which a template's groups are placed, and how many layers a group may have."""

    within: Layers = Field(description="Layers, as in `Group`, inside which groups are placed.")
    min: int = Field(2, ge=1, le=MOST_LAYERS, description="Fewest layers of one group.")
    max: int | None = Field(
        None,
        ge=1,
        le=MOST_LAYERS,
        description="Most layers of one group; `null`: as many as there are.",
    )

    @model_validator(mode="after")
    def _min_at_most_max(self) -> "Region":
        if self.max is not None and self.min > self.max:
            raise ConfigError(
                f"`min <= max` must hold for a group's layers, but got min={self.min} and "
                f"max={self.max}",
                "lower min, or leave out max",
            )
        return self


def _read_layers_leaf(value: object) -> Any:
    if isinstance(value, dict) and "within" in value:
        return Region.model_validate(value)
    return value


def _write_layers_leaf(value: object) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Region) else value


LayersLeaf = Annotated[
    Any, BeforeValidator(reader(_read_layers_leaf)), PlainSerializer(_write_layers_leaf)
]


def _as_in_group(key: str, default: object) -> Any:
    """Make a field described like the same key of :class:`Group`."""
    return Field(default, description=Group.model_fields[key].description)


class GroupTemplate(StrictModel):
    """A template of groups to draw.

    Each key but `stack` is a leaf: a value, a range ``{low, high, step | log}`` or
    ``{choices: [...]}``.
    """

    layers: LayersLeaf = Field(
        description="Layers as in `Group`, or a region `{within, min, max}` to place groups in."
    )
    count: Any = Field(
        1,
        description="Number of groups to draw; other than 0 or 1 it needs `layers: {within: ..}`.",
    )
    stack: str | None = _as_in_group("stack", None)
    parts: Any = _as_in_group("parts", ["attention", "ffn"])
    assign: Any = _as_in_group("assign", "one")
    form: Any = _as_in_group("form", "tie")
    init: Any = _as_in_group("init", "mean")
    units: Any = _as_in_group("units", "importance")
    times: Any = _as_in_group("times", 1)
    order: Any = _as_in_group("order", "block")

    @model_validator(mode="after")
    def _check(self) -> "GroupTemplate":
        for key in ("count", *DRAWN):
            check_leaf(getattr(self, key), key)
        if not isinstance(self.layers, Region):
            check_leaf(self.layers, "layers")
            if self.count not in (0, 1):
                raise ConfigError(
                    f"several groups need room to be placed in, but layers is {shown(self.layers)}",
                    "write layers: {within: 0..-1}, or one entry for each group",
                )
        for count in alternatives(self.count):
            if isinstance(count, bool) or not isinstance(count, int):
                raise ConfigError(f"count must be a whole number, but got {shown(count)}", LEAF)
            if not 0 <= count <= MOST_GROUPS:
                raise ConfigError(f"`0 <= count <= {MOST_GROUPS}` must hold, but got {count}", LEAF)
        return self

    def with_most_groups(self) -> "GroupTemplate":
        """Return the template that always has as many groups as it can have."""
        return self.model_copy(update={"count": max(alternatives(self.count))})

    def cases(self) -> list["GroupTemplate"]:
        """List templates without choices that together take each one and both ends of ranges."""
        keys = ("count", "layers", *DRAWN)
        leaves = _together(getattr(self, key) for key in keys)
        return [self.model_copy(update=dict(zip(keys, each, strict=True))) for each in leaves]

    def suggest(self, trial: Trial, name: str, stacks: Mapping[str, StackShape]) -> list[Group]:
        """Draw the groups of one candidate, unbound."""
        count = int(draw(self.count, trial, f"{name}.count"))
        places = self._places(trial, name, count, stacks)
        return [self._group(trial, f"{name}.{i}", own, stacks) for i, own in enumerate(places)]

    def _group(
        self, trial: Trial, name: str, layers: Any, stacks: Mapping[str, StackShape]
    ) -> Group:
        stack, shape = self._stack(stacks)
        count = len(resolve_layers(Group(layers=layers).layers, shape.depth, stack))
        leaves = {key: _for_layers(getattr(self, key), count) for key in DRAWN}
        drawn = {key: draw(leaf, trial, f"{name}.{key}") for key, leaf in leaves.items()}
        return Group.model_validate({"layers": layers, "stack": self.stack, **drawn})

    def _places(
        self, trial: Trial, name: str, count: int, stacks: Mapping[str, StackShape]
    ) -> list[Any]:
        if not isinstance(self.layers, Region):
            return [draw(self.layers, trial, f"{name}.layers")] * count
        stack, shape = self._stack(stacks)
        free = resolve_layers(self.layers.within, shape.depth, stack)
        return place(trial, name, free, count, self.layers)

    def _stack(self, stacks: Mapping[str, StackShape]) -> tuple[str, StackShape]:
        bound = SharingPlan.drop((0,), self.stack).bound(stacks)
        stack = bound.groups[0].stack or ""
        return stack, stacks[stack]


def place(
    trial: Trial, name: str, free: tuple[int, ...], count: int, region: Region
) -> list[tuple[int, ...]]:
    """Draw `count` disjoint ranges of layers inside `free`, from left to right.

    Each group takes two parameters in 0..1, `start` and `length`, scaled to the places and lengths
    that are still possible, so that the parameters' own ranges never change. Raises
    :class:`ConfigError` if `count` groups do not fit.
    """
    if count * region.min > len(free):
        raise ConfigError(
            f"{count} groups of at least {region.min} layers do not fit into {len(free)} layers",
            "lower count or min, or widen within",
        )
    places, start = [], 0
    for i in range(count):
        reserved = (count - i - 1) * region.min
        starts = len(free) - reserved - region.min - start + 1
        start += _spread(trial, f"{name}.{i}.start", starts)
        longest = min(region.max or len(free), len(free) - reserved - start)
        length = region.min + _spread(trial, f"{name}.{i}.length", longest - region.min + 1)
        places.append(free[start : start + length])
        start += length
    return places


def _spread(trial: Trial, name: str, count: int) -> int:
    """Draw one of ``0..count-1`` by a parameter in 0..1."""
    fraction = trial.suggest_float(name, 0.0, 1.0, step=None, log=False)
    return min(int(fraction * count), count - 1)


class Space(StrictModel):
    """All candidates a study may try."""

    plan: tuple[GroupTemplate, ...] = Field(
        (), description="Templates of the plan's groups; none searches no plan."
    )
    recipe: dict[str, Any] = Field(
        {}, description="Keys of `Recipe`, each a value, a range or choices; others: its defaults."
    )
    compression: dict[str, Any] = Field(
        {},
        description="Keys of `Compression`, each a value, a range or choices; others: its "
        "defaults.",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_numbers(cls, data: object) -> Any:
        return with_numbers(data)

    @model_validator(mode="after")
    def _check(self) -> "Space":
        for name, section in SECTIONS.items():
            for key, leaf in getattr(self, name).items():
                if key not in section.model_fields:
                    raise ConfigError(
                        f"unknown key in {name}: {key!r}",
                        did_you_mean(key, [*section.model_fields]),
                    )
                check_leaf(leaf, f"{name}.{key}")
        for case in self.cases():
            for name, section in SECTIONS.items():
                _check_section(section, getattr(case, name), name)
        return self

    def cases(self) -> list["Space"]:
        """List spaces without choices that together take each one, and both ends of each range.

        Only where groups are placed is open in them. In all but the first, which has the lowest
        values, templates have as many groups as they can.
        """
        most = self.model_copy(update={"plan": tuple(t.with_most_groups() for t in self.plan)})
        return [self._cases()[0], *most._cases()]

    def _cases(self) -> list["Space"]:
        templates = [template.cases() for template in self.plan]
        sections = [alternatives(getattr(self, name)) for name in SECTIONS]
        steps = _in_step([*sections, *templates])
        drawn = ((dict(zip(SECTIONS, step, strict=False)), step[len(SECTIONS) :]) for step in steps)
        return [self.model_copy(update={**values, "plan": plan}) for values, plan in drawn]

    def suggest(self, trial: Trial, stacks: Mapping[str, StackShape]) -> Candidate:
        """Draw a candidate, bound to a model with these stacks."""
        groups = [
            group
            for i, template in enumerate(self.plan)
            for group in template.suggest(trial, f"plan.{i}", stacks)
        ]
        plan = SharingPlan(groups=tuple(groups))
        compression = _drawn(Compression, self.compression, trial, "compression")
        recipe = self.suggest_recipe(trial)
        return Candidate(plan=plan, compression=compression, recipe=recipe).bound(stacks)

    def suggest_recipe(self, trial: Trial) -> Recipe:
        """Draw a recipe."""
        return _drawn(Recipe, self.recipe, trial, "recipe")

    def reference_recipe(self) -> Recipe:
        """Return the recipe of the anchors.

        Fixed values are kept. A searched key takes its default where the space allows it, else the
        middle of its range (geometric for log) or its first choice.
        """
        return _referred(Recipe, self.recipe)

    def reference_compression(self) -> Compression:
        """Return the compression of given plans, by the rule of :meth:`reference_recipe`."""
        return _referred(Compression, self.compression)

    def adopt(self, candidate: Candidate) -> Candidate:
        """Turn a candidate of another space into one of this space.

        It keeps its plan and those keys of its recipe and compression that this space searches;
        the others are as in :meth:`reference_recipe`. Raises :class:`SharetuneError` if the two do
        not go together.
        """
        recipe = _adopted(self.reference_recipe(), self.recipe, candidate.recipe)
        compression = _adopted(
            self.reference_compression(), self.compression, candidate.compression
        )
        return Candidate(plan=candidate.plan, compression=compression, recipe=recipe)

    @property
    def distils(self) -> bool:
        """Return whether any candidate may have a teacher."""
        return self.recipe.get("distill") is not None

    @property
    def sized_by_building(self) -> bool:
        """Return whether sizes of candidates may be unknown before their model is built."""
        return any(Compression(**case.compression).needs_building for case in self.cases())

    def check(self, stacks: Mapping[str, StackShape]) -> list[Candidate]:
        """Return candidates with each choice and both ends of each range of the space.

        Raises :class:`SharetuneError` if one does not fit the model.
        """
        lowest, *others = self.cases()
        highest = [case.suggest(Corner(high=True), stacks) for case in others]
        return [lowest.suggest(Corner(high=False), stacks), *highest]


SECTIONS: dict[str, type[BaseModel]] = {"recipe": Recipe, "compression": Compression}
"""Models of the space's keys that hold leaves."""

Settings = TypeVar("Settings", bound=BaseModel)


def _drawn(
    section: type[Settings], leaves: Mapping[str, object], trial: Trial, name: str
) -> Settings:
    return section(**{key: draw(leaf, trial, f"{name}.{key}") for key, leaf in leaves.items()})


def _check_section(section: type[BaseModel], values: Mapping[str, object], name: str) -> None:
    """Raise :class:`ConfigError`, with the place, if the values are no valid section."""
    try:
        validated(section, values)
    except ValidationError as error:
        raise _mistake(error, section, name) from None


def _mistake(error: ValidationError, section: type[BaseModel], name: str) -> SharetuneError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    place = ".".join([name, *map(str, first["loc"])])
    if isinstance(cause, SharetuneError):
        return ConfigError(f"{place}: {cause.message}", cause.hint)
    if first["type"] == "extra_forbidden":
        known = list(section.model_fields)
        for step in first["loc"][:-1]:
            known = _fields(section.model_fields[str(step)].annotation) or known
        return ConfigError(f"{place}: unknown key", did_you_mean(str(first["loc"][-1]), known))
    return ConfigError(f"{place}: {first['msg'].lower()}, but got {shown(first['input'])}", LEAF)


def _fields(annotation: object) -> list[str]:
    kinds = [annotation, *getattr(annotation, "__args__", ())]
    models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    return list(models[0].model_fields) if models else []


def _referred(section: type[Settings], leaves: Mapping[str, object]) -> Settings:
    fields = section.model_fields
    return section(**{key: _reference(leaf, fields[key].default) for key, leaf in leaves.items()})


def _adopted(reference: Settings, leaves: Mapping[str, object], other: Settings) -> Settings:
    searched = {key: getattr(other, key) for key, leaf in leaves.items() if _is_searched(leaf)}
    return type(reference).model_validate({**dict(reference), **searched})


def _is_searched(leaf: object) -> bool:
    """Return whether `leaf` holds a range or choices."""
    inside = isinstance(leaf, dict) and any(map(_is_searched, leaf.values()))
    return is_range(leaf) or is_choice(leaf) or inside


def _reference(leaf: Any, default: Any) -> Any:
    if is_choice(leaf):
        choices = leaf["choices"]
        return default if default in choices else _reference(choices[0], None)
    if not is_range(leaf):
        nested = isinstance(leaf, dict)
        return {key: _reference(child, None) for key, child in leaf.items()} if nested else leaf
    low, high = leaf["low"], leaf["high"]
    if default is not None and low <= default <= high:
        return default
    middle = (low * high) ** 0.5 if leaf.get("log") else (low + high) / 2
    return int(middle) if isinstance(low, int) and isinstance(high, int) else middle
