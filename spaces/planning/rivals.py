"""The best plan of one kind alone at a size: what every plan of that size must beat."""

from collections.abc import Mapping, Sequence

from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import FORMS
from sharetune.spaces.planning.edits import Edit
from sharetune.spaces.planning.solving import Front, Scored, Solution, solve

RIVALS = {"drop": "drops", "narrow": "narrowing", "lowrank": "low rank"}
"""Rivals of one form each, by the form's name; all other forms that share are one, "sharing"."""


def rivals(
    scored: Sequence[Scored], limits: Mapping[str, float], unshared: Mapping[str, float]
) -> dict[str, Solution]:
    """Solve for `limits` with the edits of one kind alone, for each kind; see :func:`solve`.

    Kinds are ``drops``, ``narrowing``, ``low rank`` and ``sharing``; one whose edits do not come
    to a plan that small is missing.
    """
    found = {kind: _solved(own, limits, unshared) for kind, own in by_kind(scored).items()}
    return {kind: solution for kind, solution in found.items() if solution is not None}


class RivalFronts:
    """The best plans of each kind alone for every number of parameters, solved once."""

    def __init__(self, scored: Sequence[Scored], unshared: Mapping[str, float]) -> None:
        self._unshared = unshared
        self._fronts = {kind: Front(own, "parameters") for kind, own in by_kind(scored).items()}

    def at(self, parameters: float) -> dict[str, Solution]:
        """Return the cheapest plan of each kind with at most `parameters`, cheapest first.

        A kind whose edits do not come to a plan that small is missing.
        """
        found = {
            kind: next(front.best(self._unshared["parameters"] - parameters), None)
            for kind, front in self._fronts.items()
        }
        solved = {kind: one for kind, one in found.items() if one is not None}
        return dict(sorted(solved.items(), key=lambda item: item[1].cost))


def by_kind(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Sort edits by the rival that may have them; those of no rival are left out."""
    kinds: dict[str, list[Scored]] = {kind: [] for kind in (*RIVALS.values(), "sharing")}
    for one in scored:
        if (kind := rival_of(one.edit)) is not None:
            kinds[kind].append(one)
    return {kind: own for kind, own in kinds.items() if own}


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
