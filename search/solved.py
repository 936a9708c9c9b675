"""Turn the scores of a run folder into plans that its search trains first."""

from typing import Any

from sharetune.search.config import StudyConfig
from sharetune.spaces.digest import digest
from sharetune.spaces.errors import PlanError, RunError
from sharetune.spaces.evaluator import Evaluator, Sizes
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.score_file import ScoreFile, ScoresHeader, StoredScores
from sharetune.spaces.planning.solving import Solution, solve
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder

STACK_PARTS = (0.9, 0.8, 0.6, 0.4)
"""Fractions of the stacks' parameters that solved plans keep at most, spread over what a front
spans: below 0.4 untrained plans have lost nearly all that the model knew."""


def solved_plans(
    config: StudyConfig, run: RunFolder, evaluator: Evaluator, unshared: Sizes
) -> list[dict[str, Any]]:
    """Return the best plan for each size, within the budget's limits; none without scores.

    Raises :class:`RunError` if the scores are of another model, data or space.
    """
    file = ScoreFile(run.scores)
    if not file.exists:
        return []
    stored = file.read()
    refuse_other(stored.header, config, run, evaluator)
    found: dict[SharingPlan, None] = {}
    for part in STACK_PARTS:
        most = unshared["parameters"] - (1 - part) * unshared["stack_parameters"]
        limits = config.budget.limits()
        limits["parameters"] = min(most, limits.get("parameters", most))
        found |= {one.plan: None for one in _solved(stored, limits)}
    return [plan.written() for plan in found]


def _solved(stored: StoredScores, limits: dict[str, float]) -> list[Solution]:
    try:
        return solve(list(stored.scored.values()), limits, stored.header.unshared, count=1)
    except PlanError:  # no plan is that small
        return []


def depends(config: StudyConfig, evaluator: Evaluator) -> dict[str, str]:
    """Return digests of all that scores depend on, by name."""
    recipe = config.space.reference_recipe()
    sizes = evaluator.sizes(Candidate(recipe=recipe))
    return {
        "model": digest([config.model, evaluator.identity["model"], sizes]),
        "data": digest([config.task["name"], evaluator.identity["data"]]),
        "max_length": str(recipe.max_length),
        "space": digest(config.space.model_dump(mode="json")["plan"]),
    }


def refuse_other(
    header: ScoresHeader, config: StudyConfig, run: RunFolder, evaluator: Evaluator
) -> None:
    """Raise :class:`RunError` if the stored scores are not of this model, data and space."""
    found = depends(config, evaluator)
    changed = [name for name in found if found[name] != header.depends.get(name)]
    if changed:
        raise RunError(
            f"the scores in {run.scores} are of another {' and '.join(changed)}",
            "undo the change, choose another folder with --out, or remove that file",
        )
