"""Read and write layer ranges: ``1..4``, ``all`` or lists, as tuples of 0-based indices."""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from sharetune.spaces.errors import PlanError
from sharetune.spaces.settings import reader
from sharetune.spaces.texts import shown

HOW_TO_WRITE = "write a range such as 1..4 (inclusive, negatives count from the end) or a list"
"""Hint of every error about layers."""

MOST_LAYERS = 10_000
"""Layers of a stack: ten times as many as the deepest Transformers have."""

RANGE = re.compile(r"(-?[0-9]{1,9})\s*\.\.\s*(-?[0-9]{1,9})")
"""``first..last`` with optional minus signs and spaces."""

LayerSpec = str | tuple[int, ...]
"""Indices, or the text of a range with an end that counts from the stack's end."""


def read_layers(value: object) -> LayerSpec:
    """Read layers as written: ``"1..4"``, ``"all"``, one index or a list of indices.

    Returns a sorted tuple of indices where none of them counts from the end, else the
    range's text or the tuple as given. Raises :class:`PlanError` for anything else.
    """
    if isinstance(value, bool):
        raise PlanError(f"layers must be indices, but got {value!r}", HOW_TO_WRITE)
    if isinstance(value, int):
        return _read_list([value])
    if isinstance(value, str):
        return _read_range(value)
    if isinstance(value, Iterable):
        return _read_list(list(value))
    raise PlanError(f"layers must be indices, but got {shown(value)}", HOW_TO_WRITE)


def _refuse_far(first: int, last: int) -> None:
    if first < -MOST_LAYERS or last >= MOST_LAYERS:
        raise PlanError(
            f"no stack has more than {MOST_LAYERS:,} layers, but got {first}..{last}", HOW_TO_WRITE
        )


def _read_range(text: str) -> LayerSpec:
    match = RANGE.fullmatch("0..-1" if text.strip() == "all" else text.strip())
    if not match:
        raise PlanError(f"layers must be a range or a list, but got {shown(text)}", HOW_TO_WRITE)
    first, last = int(match[1]), int(match[2])
    if (first < 0) != (last < 0):
        _refuse_far(first, last)
        return f"{first}..{last}"
    if first > last:
        raise PlanError(f"`first <= last` must hold for layers, but got {text!r}", HOW_TO_WRITE)
    _refuse_far(first, last)
    return tuple(range(first, last + 1))


def _read_list(values: list[Any]) -> tuple[int, ...]:
    if not values or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise PlanError(
            f"layers must be a non-empty list of indices, but got {shown(values)}", HOW_TO_WRITE
        )
    _refuse_far(min(values), max(values))
    if len(set(values)) < len(values):
        raise PlanError(f"layers must not repeat, but got {shown(values)}", "name each layer once")
    return tuple(sorted(values)) if min(values) >= 0 else tuple(values)


def write_layers(layers: LayerSpec) -> str | list[int]:
    """Write `layers` in the shortest way: a range where they are adjacent, else a list."""
    if isinstance(layers, str):
        return layers
    first, last = layers[0], layers[-1]
    is_one_sided = (first < 0) == (last < 0)
    if len(layers) > 1 and is_one_sided and layers == tuple(range(first, last + 1)):
        return f"{first}..{last}"
    return list(layers)


def is_absolute(layers: LayerSpec) -> bool:
    """Return whether no index counts from the end, so that the depth need not be known."""
    return not isinstance(layers, str) and min(layers) >= 0


def resolve_layers(layers: LayerSpec, depth: int, stack: str) -> tuple[int, ...]:
    """Return the indices, ``0..depth-1``, in order.

    Raises :class:`PlanError` for one beyond the stack.
    """
    if isinstance(layers, str):
        first, last = (_absolute(int(end), depth, stack) for end in layers.split(".."))
        if first > last:
            raise PlanError(
                f"`first <= last` must hold for layers, but {layers!r} is {first}..{last} "
                f"in stack {stack!r} of {depth} layers",
                HOW_TO_WRITE,
            )
        return tuple(range(first, last + 1))
    farthest_first = sorted(layers, key=abs, reverse=True)
    indices = sorted(_absolute(index, depth, stack) for index in farthest_first)
    if len(set(indices)) < len(indices):
        raise PlanError(f"layers must not repeat, but got {list(layers)}", "name each layer once")
    return tuple(indices)


def _absolute(index: int, depth: int, stack: str) -> int:
    if not -depth <= index < depth:
        raise PlanError(
            f"layer {index} is beyond stack {stack!r}, which has {depth} layers",
            f"use 0..{depth - 1}, or {-depth}..-1 counted from the end",
        )
    return index % depth


def runs(layers: Sequence[int]) -> str:
    """Write layer indices for people, adjacent ones as ranges: ``"0, 2..5"``."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}..{p[-1]}" for p in parts)


Layers = Annotated[LayerSpec, BeforeValidator(reader(read_layers)), PlainSerializer(write_layers)]
