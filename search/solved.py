"""Turn the scores of a run folder into plans that its search trains first."""

from collections.abc import Mapping, Sequence
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.search.config import StudyConfig
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.digest import digest
from sharetune.spaces.errors import PlanError, RunError
from sharetune.spaces.evaluator import PREDICTIONS, Evaluator, Sizes
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.score_file import ScoreFile, ScoresHeader, StoredScores
from sharetune.spaces.planning.solving import Scored, Solution, solve
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder

STACK_PARTS = (0.9, 0.8, 0.6, 0.4)
"""Fractions of the stacks' parameters that solved plans keep at most, spread over what a front
spans: below 0.4 untrained plans have lost nearly all that the model knew."""

FINER_STACK_PARTS = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4)
"""The same for studies of `FINER_TRIALS` trials or more, which have time for twice as many."""

FINER_TRIALS = 32
"""Trials in a budget of which eight solved plans are a quarter."""


def plans_from_scores(
    config: StudyConfig, run: RunFolder, evaluator: Evaluator, unshared: Sizes
) -> dict[str, Any]:
    """Return the attributes of a study whose folder holds scores: solved plans, anchors' plans.

    Raises :class:`RunError` if the scores are of another model, data or space.
    """
    file = ScoreFile(run.scores)
    if not file.exists:
        return {}
    stored = file.read()
    refuse_other(stored.header, config, run, evaluator)
    solved = [plan.written() for plan in _solved_plans(config, stored, unshared)]
    anchors = {name: plan.written() for name, plan in _drops(config, stored, evaluator).items()}
    found = {record.SOLVED: solved, record.ANCHOR_PLANS: anchors}
    return {name: plans for name, plans in found.items() if plans}


def _solved_plans(config: StudyConfig, stored: StoredScores, unshared: Sizes) -> list[SharingPlan]:
    """Return the best plan for each size, within the budget's limits."""
    fine = config.budget.trials >= FINER_TRIALS
    found: dict[SharingPlan, None] = {}
    for part in FINER_STACK_PARTS if fine else STACK_PARTS:
        most = unshared["parameters"] - (1 - part) * unshared["stack_parameters"]
        limits = config.budget.limits()
        limits["parameters"] = min(most, limits.get("parameters", most))
        solution = _solved(list(stored.scored.values()), limits, stored.header.unshared)
        found |= {solution.plan: None} if solution else {}
    return list(found)


def _drops(
    config: StudyConfig, stored: StoredScores, evaluator: Evaluator
) -> dict[str, SharingPlan]:
    """Return the cheapest drops of the size of each anchor that drops layers.

    Only where the drop of every layer was scored.
    """
    drops = [one for one in stored.all_scored if one.edit.kind == "drop"]
    layers = {(one.edit.stack, layer) for one in drops for layer in one.edit.layers}
    if len(layers) < sum(shape.depth for shape in evaluator.stacks.values()):
        return {}
    found: dict[str, SharingPlan] = {}
    for name in config.anchors:
        plan = ANCHORS[name](evaluator.stacks)
        if plan.groups and all(group.form.name == "drop" for group in plan.groups):
            candidate = Candidate(plan=plan, recipe=config.space.reference_recipe())
            limits = {"parameters": evaluator.sizes(candidate)["parameters"]}
            solution = _solved(drops, limits, stored.header.unshared)
            found |= {name: solution.plan} if solution else {}
    return found


def _solved(
    scored: Sequence[Scored], limits: Mapping[str, float], unshared: Sizes
) -> Solution | None:
    try:
        return solve(scored, limits, unshared, count=1)[0]
    except PlanError:  # no plan is that small
        return None


def depends(config: StudyConfig, evaluator: Evaluator) -> dict[str, str]:
    """Return digests of all that scores depend on, by name."""
    recipe = config.space.reference_recipe()
    sizes = evaluator.sizes(Candidate(recipe=recipe))
    return {
        "model": digest([config.model, evaluator.identity["model"], sizes]),
        "data": digest([config.task["name"], evaluator.identity["data"]]),
        "max_length": str(recipe.max_length),
        "tokens": str(PREDICTIONS if config.scores is None else config.scores.tokens),
        "space": digest(config.space.model_dump(mode="json")["plan"]),
    }


def refuse_other(
    header: ScoresHeader, config: StudyConfig, run: RunFolder, evaluator: Evaluator
) -> None:
    """Raise :class:`RunError` if the stored scores are not of this model, data and space."""
    found = depends(config, evaluator)
    stored = {"tokens": str(PREDICTIONS), **header.depends}  # older files do not say it
    changed = [name for name in found if found[name] != stored.get(name)]
    if changed:
        raise RunError(
            f"the scores in {run.scores} are of another {' and '.join(changed)}",
            "undo the change, choose another folder with --out, or remove that file",
        )
