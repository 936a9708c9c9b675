"""Turn candidates into features for a regression, and draw from a space without Optuna."""

import math
import random
from collections.abc import Mapping, Sequence
from sys import intern
from typing import Any
from zlib import crc32

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sharetune.results.reading.trial import Draw
from sharetune.spaces.group import Group
from sharetune.spaces.parts import ATTENTION, FFN
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.yaml_text import as_number

KINDS = {"attention": frozenset(ATTENTION), "ffn": frozenset(FFN)}


def features(candidate: Candidate, exact: Mapping[str, float]) -> dict[str, float]:
    """Describe a candidate by numbers for a regression, and by a name each.

    They say how much of each layer's attention and FFN is shared and by which form, for each group
    its form's knobs and its rules, the recipe, the compression, and what is exact. What is absent
    has no name.
    """
    found = {f"exact.{name}": float(value) for name, value in exact.items()}
    recipe = candidate.recipe
    found |= _settings("recipe", recipe.model_dump(exclude=recipe.unknown_before()))
    found |= _settings("compression", candidate.compression.model_dump(exclude_defaults=True))
    for place, group in enumerate(candidate.plan.groups):
        found |= _layers(group)
        found |= {f"{name}.{place}" if place else name: x for name, x in _rules(group).items()}
    return {intern(name): value for name, value in found.items()}  # all trials have the same names


def _settings(section: str, settings: Mapping[str, Any]) -> dict[str, float]:
    given = {name: value for name, value in settings.items() if value is not None}
    return {f"{section}.{name}": _number(value) for name, value in given.items()}


def _layers(group: Group) -> dict[str, float]:
    """Return the fraction of each part of each layer that a group shares, by name."""
    form, found = group.form, {}
    for layer in group.layers:
        place = f"{group.stack}.{layer}"
        found[f"{place}.form"] = _number(form.name)
        for kind, roles in KINDS.items():
            if form.removes_layers or roles & set(group.parts):
                found[f"{place}.{kind}"] = group.form_of((int(layer),)).share()
    return found


def _rules(group: Group) -> dict[str, float]:
    """Return a group's knobs and rules by name."""
    form = group.form
    found = {f"{form.name}.{knob}": _number(value) for knob, value in form.model_dump().items()}
    found |= {"init": _number(group.init), "units": _number(group.units)}
    return found | {"groups.layers": float(len(group.layers))}


def _number(value: object) -> float:
    """Return a number, the mean of several, or a text's hash that is equal in every process."""
    if isinstance(value, tuple):
        return sum(map(_number, value)) / len(value)
    return float(value) if isinstance(value, int | float) else float(crc32(str(value).encode()))


class Drawer:
    """A trial of its own: uniform draws, or changes of an earlier draw, one in `CHANGED`.

    In the sections `middle` numbers are the middle of their range, or of their choices.
    """

    CHANGED = 0.25

    def __init__(
        self, rng: random.Random, parent: Draw | None = None, middle: Sequence[str] = ()
    ) -> None:
        self._rng, self._middle = rng, tuple(middle)
        self._parent = {} if parent is None else parent.params
        self._params: dict[str, Any] = {}
        self._distributions: dict[str, BaseDistribution] = {}

    @property
    def draw(self) -> Draw:
        """The parameters drawn so far, with their ranges."""
        return Draw(self._params, self._distributions)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        distribution = IntDistribution(low, high, log=log, step=step)
        if self._is_middle(name):
            middle = math.sqrt(low * high) if log else (low + high) / 2
            fresh = low + step * round((middle - low) / step)
        elif log:
            exponent = self._rng.uniform(math.log(low - 0.5), math.log(high + 0.5))
            fresh = min(high, max(low, round(math.exp(exponent))))
        else:
            fresh = low + step * self._rng.randint(0, (high - low) // step)
        return int(self._chosen(name, distribution, fresh))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        distribution = FloatDistribution(low, high, log=log, step=step)
        if self._is_middle(name):
            middle = math.sqrt(low * high) if log else (low + high) / 2
            fresh = low + step * round((middle - low) / step) if step else middle
        elif step:
            fresh = low + step * self._rng.randint(0, int((high - low) / step + 1e-9))
        elif log:
            fresh = math.exp(self._rng.uniform(math.log(low), math.log(high)))
        else:
            fresh = self._rng.uniform(low, high)
        return float(self._chosen(name, distribution, min(high, max(low, fresh))))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        fresh = self._rng.choice(choices)
        numbers = {as_number(choice): choice for choice in choices}
        is_number = all(isinstance(number, int | float) for number in numbers)
        if self._is_middle(name) and is_number:
            fresh = numbers[sorted(numbers)[len(numbers) // 2]]
        return self._chosen(name, CategoricalDistribution(choices), fresh)

    def _is_middle(self, name: str) -> bool:
        return name.split(".")[0] in self._middle

    def _chosen(self, name: str, distribution: BaseDistribution, fresh: object) -> Any:
        keeps = name in self._parent and self._rng.random() >= self.CHANGED
        value = self._parent[name] if keeps else fresh
        self._params[name], self._distributions[name] = value, distribution
        return value
