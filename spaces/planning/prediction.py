"""Predict the distance of any plan from the scores of single edits, also of edits not scored.

The distance of a group that was not scored itself is put together from what was: layer by layer
where layers are dropped or narrowed, else from one adjacent pair to the next; between two knobs
of a form it is interpolated, from no change at no cost on.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import mean

import numpy as np

from sharetune.spaces.forms import Drop, Form, Narrow
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import Edit
from sharetune.spaces.planning.solving import Scored
from sharetune.spaces.stack_shape import StackShape

Place = tuple[str, str, str, tuple[int, ...]]
"""Form, stack, parts as the edit names them, and layers."""

Point = tuple[float, float]
"""A form's strength (0..1) and its cost, the distance in nats or as a fraction of variance."""


class Predictor:
    """The costs of single edits, from which those of whole plans are predicted."""

    def __init__(self, scored: Iterable[Scored]) -> None:
        self._exact: dict[str, float] = {}
        self._places: dict[Place, list[Point]] = defaultdict(list)
        self._kinds: dict[tuple[str, str], list[Point]] = defaultdict(list)
        for one in scored:
            edit, point = one.edit, (_changed(one.edit.group.form), one.cost)
            self._exact[edit.key()] = one.cost
            self._places[edit.kind, edit.stack, edit.named, edit.layers].append(point)
            self._kinds[edit.kind, edit.named].append(point)

    def predict(self, plan: SharingPlan, stacks: Mapping[str, StackShape]) -> float | None:
        """Return the sum of the costs of the plan's edits; None if nothing tells one of them."""
        costs = [self._cost(edit) for group in plan.groups for edit in Edit.of(group, stacks)]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def _cost(self, edit: Edit) -> float | None:
        known = self._exact.get(edit.key())
        if known is not None:
            return known
        single = isinstance(edit.group.form, Drop | Narrow)
        windows = [(layer,) for layer in edit.layers] if single else pairwise(edit.layers)
        costs = [self._window(edit, tuple(window)) for window in windows]
        found = [cost for cost in costs if cost is not None]
        return sum(found) if found and len(found) == len(costs) else None

    def _window(self, edit: Edit, layers: tuple[int, ...]) -> float | None:
        """Return the cost on some of the edit's layers; of several parts, one after the other."""
        whole = self._at(edit, edit.named, layers)
        parts = edit.named.split("+")
        if whole is not None or len(parts) == 1:
            return whole
        apart = [self._at(edit, each, layers) for each in parts]
        known = [cost for cost in apart if cost is not None]
        return sum(known) if len(known) == len(apart) else None

    def _at(self, edit: Edit, part: str, layers: tuple[int, ...]) -> float | None:
        own = self._places.get((edit.kind, edit.stack, part, layers))
        points = own or self._kinds.get((edit.kind, part))
        return None if points is None else _interpolated(points, _changed(edit.group.form))


def _changed(form: Form) -> float:
    """Return how much of a layer a form changes, 0..1: all, where its knobs do not tell."""
    if isinstance(form, Narrow):
        return 1 - form.keep
    return form.share() or 1.0


def _interpolated(points: Iterable[Point], at: float) -> float:
    """Return the cost between the nearest points, which are means where several are at one place.

    Below the first it falls to 0, above the last it rises in proportion.
    """
    costs: dict[float, list[float]] = defaultdict(list)
    for place, cost in points:
        costs[place].append(cost)
    places = sorted(costs)
    means = [mean(costs[place]) for place in places]
    beyond = max(1.0, at / places[-1])
    return beyond * float(np.interp(at, [0.0, *places], [0.0, *means]))
