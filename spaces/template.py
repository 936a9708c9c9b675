"""Draw groups of a plan: where a group may lie, and the leaves of its keys.

Groups are placed from left to right inside their region, so that no draw can overlap.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.group import Group
from sharetune.spaces.layers import MOST_LAYERS, Layers, resolve_layers
from sharetune.spaces.leaves import (
    LEAF,
    Trial,
    alternatives,
    check_leaf,
    draw,
    for_layers,
    together,
)
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.settings import StrictModel, reader
from sharetune.spaces.stack_shape import StackShape
from sharetune.spaces.texts import shown

DRAWN = ("parts", "assign", "form", "init", "units", "times", "order")
"""Keys of a template that are drawn once for each group, in this order; samplers rely on it."""

MOST_GROUPS = 1_000
"""Groups of one template."""


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
        leaves = together(getattr(self, key) for key in keys)
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
        leaves = {key: for_layers(getattr(self, key), count) for key in DRAWN}
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
