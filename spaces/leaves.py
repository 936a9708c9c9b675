"""Check and draw the leaves of a space: values, ranges, choices, and lists of these.

A leaf is a value, a range ``{low, high, step | log}`` or ``{choices: [...]}``, whose choices may
hold ranges themselves, or a list of leaves. In a group's keys ``{each: leaf}`` is a list with one
draw for each of its layers.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, Protocol, TypeGuard

import yaml

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.texts import shown
from sharetune.spaces.yaml_text import LARGEST, as_number

MOST_STEPS = 1_000_000
"""Values of a range with steps."""

MOST_CHOICES = 2_000
"""Choices inside a leaf, each of which is tried when a space is checked."""

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
        found = [dict(zip(leaf, values, strict=True)) for values in together(leaf.values())]
    elif isinstance(leaf, list):
        found = [list(values) for values in together(leaf)]
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


def together(leaves: Iterable[Any]) -> list[tuple[Any, ...]]:
    """List values of all `leaves` at once: their first alternatives, their second, and so on."""
    return in_step([alternatives(leaf) for leaf in leaves])


def in_step(lists: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
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


def for_layers(leaf: Any, count: int) -> Any:
    """Return `leaf` with one leaf for each of `count` layers where it says so."""
    if is_each(leaf):
        return [leaf["each"]] * count
    if is_choice(leaf):
        return {"choices": [for_layers(choice, count) for choice in leaf["choices"]]}
    if isinstance(leaf, dict):
        return {key: for_layers(child, count) for key, child in leaf.items()}
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


def is_searched(leaf: object) -> bool:
    """Return whether `leaf` holds a range or choices."""
    inside = isinstance(leaf, dict) and any(map(is_searched, leaf.values()))
    return is_range(leaf) or is_choice(leaf) or inside


def reference_of(leaf: Any, default: Any) -> Any:
    """Return the `default` where the leaf allows it, else a first choice or a range's middle."""
    if is_choice(leaf):
        choices = leaf["choices"]
        return default if default in choices else reference_of(choices[0], None)
    if not is_range(leaf):
        nested = isinstance(leaf, dict)
        return {key: reference_of(child, None) for key, child in leaf.items()} if nested else leaf
    low, high = leaf["low"], leaf["high"]
    if default is not None and low <= default <= high:
        return default
    middle = (low * high) ** 0.5 if leaf.get("log") else (low + high) / 2
    return int(middle) if isinstance(low, int) and isinstance(high, int) else middle
