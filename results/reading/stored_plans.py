"""Read the plans of stored candidates, each one once, and name or describe them."""

import json
from collections.abc import Mapping
from functools import lru_cache

from sharetune.spaces.errors import PlanError
from sharetune.spaces.group import Group
from sharetune.spaces.plan import SharingPlan, presets
from sharetune.spaces.stack_shape import StackShape


def stored_plan(candidate: object) -> SharingPlan | None:
    """Read the plan of a stored candidate.

    None where there is none, or one that this version cannot read.
    """
    if not isinstance(candidate, dict) or "plan" not in candidate:
        return None
    return _read(json.dumps(candidate["plan"], sort_keys=True))


@lru_cache(maxsize=4096)
def _read(text: str) -> SharingPlan | None:
    try:
        return SharingPlan.model_validate(json.loads(text))
    except ValueError:
        return None


def preset_name(plan: SharingPlan | None, stacks: Mapping[str, int]) -> str | None:
    """Return the name of the preset that equals `plan` on a model with these stacks, or None.

    `stacks` gives the number of layers by name.
    """
    return _presets(tuple(stacks.items())).get(plan) if plan and plan.groups else None


@lru_cache(maxsize=16)
def _presets(stacks: tuple[tuple[str, int], ...]) -> dict[SharingPlan, str]:
    shapes = {name: StackShape(depth=depth, heads=1, neurons=8) for name, depth in stacks}
    found: dict[SharingPlan, str] = {}
    for name in presets():
        try:
            found.setdefault(SharingPlan.preset(name).bound(shapes), name)
        except PlanError:  # a preset that this depth does not allow, or several stacks
            continue
    return found


def sharing_groups(plan: SharingPlan | None) -> tuple[Group, ...]:
    """Return the groups that share weights; those that only remove layers or units are left out."""
    return tuple(g for g in plan.groups if g.form.shares) if plan else ()


def shares_only(candidate: object) -> bool:
    """Return whether a stored candidate shares weights and removes no layer."""
    plan = stored_plan(candidate)
    return plan is not None and 0 < len(sharing_groups(plan)) == len(plan.groups)


def drops_only(candidate: object) -> bool:
    """Return whether a stored candidate removes layers and changes nothing else."""
    plan = stored_plan(candidate)
    return plan is not None and {group.form.name for group in plan.groups} == {"drop"}


def layers_of(groups: tuple[Group, ...]) -> list[int]:
    """Return the distinct layers that groups cover, sorted; unbound groups are left out."""
    layers = {int(i) for group in groups for i in group.layers if not isinstance(group.layers, str)}
    return sorted(layers)
