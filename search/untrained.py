"""Score one untrained plan, whatever happens."""

from math import isfinite

from sharetune.spaces.errors import PlanError, SharetuneError
from sharetune.spaces.evaluator import Evaluator, JobResources, PlanScore, Untried

Untrained = PlanScore | SharetuneError
"""The score of an untrained plan, or the error that says why it has none."""


def score_untrained(evaluator: Evaluator, candidate: Untried, resources: JobResources) -> Untrained:
    """Score a candidate's plan; return the error if it has no score, or none that is a number."""
    try:
        score = evaluator.score(candidate, resources)
    except SharetuneError as error:
        return error
    except Exception as error:  # a library's own, met by this plan
        return _not_scored(candidate, f"{type(error).__name__}: {error}")
    if not isfinite(score.distance):
        return _not_scored(candidate, f"its distance is {score.distance}")
    return score


def _not_scored(candidate: Untried, reason: str) -> PlanError:
    return PlanError(f"{candidate.plan} cannot be scored: {reason}", "leave it out of the space")
