"""Set each model of the front against the best plan of one kind alone at its size."""

from collections.abc import Mapping
from dataclasses import dataclass

from sharetune.results.judging.front import comparable, pareto_front
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.reading.stored_plans import stored_plan
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.rivals import RivalFronts
from sharetune.spaces.planning.score_file import StoredScores
from sharetune.spaces.recipe import Candidate

MOST_MEMBERS = 12
"""Most members of the front that are shown, spread over its sizes."""


@dataclass(frozen=True)
class Rival:
    """The best plan of one `kind` alone with at most a member's parameters, by its scores.

    `number` and `quality` are of the trial that trained it with the member's recipe, or None.
    """

    kind: str
    plan: SharingPlan
    predicted: float
    number: int | None = None
    quality: float | None = None


@dataclass(frozen=True)
class Meeting:
    """A member of the front, and its rivals by kind."""

    member: Row
    rivals: dict[str, Rival]


def meetings(study: StudyRecord, scores: StoredScores) -> list[Meeting]:
    """Return the front's members below the unshared model's size with their rivals, by size."""
    front = pareto_front(study.frame, study.objectives)
    unshared = scores.header.unshared
    smaller = front[front["parameters"] < unshared["parameters"]].sort_values("parameters")
    every = -(-len(smaller) // MOST_MEMBERS) or 1
    fronts = RivalFronts(scores.all_scored, unshared)
    trained = _by_key(study)
    return [_meeting(row, fronts, trained, study) for row in rows_of(smaller.iloc[::every])]


def _meeting(
    member: Row,
    fronts: RivalFronts,
    trained: Mapping[str, Row],
    study: StudyRecord,
) -> Meeting:
    found = {}
    for kind, solution in fronts.at(member.value("parameters")).items():
        key = _key(member, solution.plan)
        trial = trained.get(key) if key else None
        number, quality = (trial.number, trial.value(study.quality)) if trial else (None, None)
        found[kind] = Rival(kind, solution.plan, solution.cost, number, quality)
    return Meeting(member, found)


def _by_key(study: StudyRecord) -> dict[str, Row]:
    """Return the trained trials by the keys of their candidates."""
    rows = rows_of(comparable(study.frame, [study.quality]))
    return {key: row for row in rows if (key := _key(row, stored_plan(row.candidate)))}


def _key(trial: Row, plan: SharingPlan | None) -> str | None:
    """Return the key of a trial's candidate with another plan; None if it cannot be read."""
    if plan is None:
        return None
    try:
        candidate = Candidate.model_validate(trial.candidate)
    except (SharetuneError, ValueError):
        return None
    return Candidate(plan=plan, compression=candidate.compression, recipe=candidate.recipe).key()
