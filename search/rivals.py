"""Choose the rivals of a front: the best plan of one kind alone at the size of each member.

They are solved from the same scores and trained with the member's own recipe, within the budget of
trials, so that a plan on the front has met the plain ways to its size.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from sharetune.results.reading import attributes as record
from sharetune.results.reading.trial import Trial
from sharetune.search.early_stopping import spread_over
from sharetune.search.sections import Budget
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.objectives import Objective
from sharetune.spaces.planning.rivals import RivalFronts
from sharetune.spaces.recipe import Candidate

PART = 4
"""Part of the budget's trials, as its divisor, that are rivals; they are the last ones."""

MOST = 12
"""Most rivals of a study: four kinds at three sizes."""


def room_for(budget: Budget) -> int:
    """Return the number of a budget's last trials that rivals take."""
    return min(budget.trials // PART, MOST)


def wanted_rivals(
    front: Sequence[Trial],
    objectives: Sequence[Objective],
    fronts: RivalFronts,
    known: Collection[str],
    most: int,
) -> list[dict[str, Any]]:
    """Return at most `most` rivals of members spread over the front, as a study notes them.

    The cheapest one of each member comes first, then the second of each, and so on. Candidates
    whose keys are `known` are trained already, and left out.
    """
    members = [trial for trial in front if trial.anchor not in ANCHORS and trial.rival is None]
    if not members or not most:
        return []
    points = np.array([trial.values for trial in members], dtype=float)
    order = spread_over(points * [objective.sign for objective in objectives], most)
    turns = zip_longest(*(_rivals(members[place], fronts) for place in order))
    found: dict[str, dict[str, Any]] = {}
    for key, rival in (one for turn in turns for one in turn if one is not None):
        if key not in known:
            found.setdefault(key, rival)
    return list(found.values())[:most]


def _rivals(member: Trial, fronts: RivalFronts) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key of each rival of a member, and the rival as a study notes it."""
    for kind, solution in fronts.at(member.sizes["parameters"]).items():
        own = member.candidate
        candidate = Candidate(plan=solution.plan, compression=own.compression, recipe=own.recipe)
        rival = {"of": member.number, "kind": kind, "candidate": candidate.written()}
        yield candidate.key(), rival


def rival_origin(rival: dict[str, Any]) -> dict[str, Any]:
    """Return where the candidate of a rival comes from, as its trial stores it."""
    of, kind = rival["of"], rival["kind"]
    name = f"{kind.replace(' ', '-')}-for-{of}"
    return {record.ANCHOR: name, record.RIVAL: {"of": of, "kind": kind}}
