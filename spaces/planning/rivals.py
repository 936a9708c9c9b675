"""The best plan of one kind alone at a size: what every plan of that size must beat."""

from collections.abc import Mapping, Sequence

from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import FORMS
from sharetune.spaces.planning.edits import Edit
from sharetune.spaces.planning.solving import Scored, Solution, solve

RIVALS = {"drop": "drops", "narrow": "narrowing", "lowrank": "low rank"}
"""Rivals of one form each, by the form's name; all other forms that share are one, "sharing"."""


def rivals(
    scored: Sequence[Scored], limits: Mapping[str, float], unshared: Mapping[str, float]
) -> dict[str, Solution]:
    """Solve for `limits` with the edits of one kind alone, for each kind; see :func:`solve`.

    Kinds are ``drops``, ``narrowing``, ``low rank`` and ``sharing``; one whose edits do not come
    to a plan that small is missing.
    """
    kinds: dict[str, list[Scored]] = {kind: [] for kind in (*RIVALS.values(), "sharing")}
    for one in scored:
        if (kind := rival_of(one.edit)) is not None:
            kinds[kind].append(one)
    found = {kind: _solved(own, limits, unshared) for kind, own in kinds.items() if own}
    return {kind: solution for kind, solution in found.items() if solution is not None}


def rival_of(edit: Edit) -> str | None:
    """Name the rival that may have this edit; None for merges, which belong to no rival."""
    sharing = "sharing" if FORMS[edit.kind].shares else None
    return RIVALS.get(edit.kind, sharing)


def _solved(
    scored: Sequence[Scored], limits: Mapping[str, float], unshared: Mapping[str, float]
) -> Solution | None:
    try:
        return solve(scored, limits, unshared, count=1)[0]
    except PlanError:
        return None
