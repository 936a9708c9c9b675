"""Turn the fronts of earlier studies into candidates that a new study trains first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharetune.results.judging.front import pareto_front
from sharetune.results.reading.study import StudyRecord, read_study
from sharetune.search.early_stopping import spread_over
from sharetune.search.sections import StartFrom
from sharetune.spaces.errors import ConfigError, SharetuneError
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.space import Space
from sharetune.spaces.stack_shape import StackShape


def earlier_fronts(
    start: StartFrom, space: Space, shapes: Mapping[str, StackShape]
) -> list[dict[str, Any]]:
    """Return at most `start.most` candidates of each run's front, its anchors left out.

    Each is ``{"study", "number", "candidate"}``, the candidate as `space` adopts it, bound to
    `shapes`. Raises :class:`RunError` if a run holds no study, and :class:`ConfigError` if its
    front is empty or does not fit the model, or if all fronts hold nothing but anchors.
    """
    found = [
        member
        for run in start.runs
        for member in _front(read_study(Path(run)), start.most, space, shapes)
    ]
    if not found:
        raise ConfigError(
            f"start_from: the fronts of {', '.join(start.runs)} hold only anchors, which every "
            "study trains anyway",
            "search there further, or leave start_from out",
        )
    return found


def _front(
    study: StudyRecord, most: int, space: Space, shapes: Mapping[str, StackShape]
) -> list[dict[str, Any]]:
    front = pareto_front(study.frame, study.objectives)
    if front.empty:
        raise ConfigError(
            f"start_from: the study in {study.path} has no completed trial",
            "let it run first, or leave it out",
        )
    drawn = front[front["anchor"].isna()]
    points = drawn[[o.name for o in study.objectives]].to_numpy(dtype=float)
    drawn = drawn.iloc[spread_over(points * [o.sign for o in study.objectives], most)]
    return [
        {
            "study": study.name,
            "number": int(number),
            "candidate": _adopted(written, space, shapes, f"trial {number} of {study.path}"),
        }
        for number, written in zip(drawn["number"], drawn["candidate"], strict=True)
    ]


def _adopted(
    written: Mapping[str, object], space: Space, shapes: Mapping[str, StackShape], place: str
) -> dict[str, Any]:
    try:
        return space.adopt(Candidate.model_validate(written)).bound(shapes).written()
    except SharetuneError as error:
        raise ConfigError(
            f"start_from: {place} does not fit this model: {error.message}",
            "name runs whose models have stacks of the same names and depths",
        ) from None
