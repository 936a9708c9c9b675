"""Fit a study from Python into given hours, as ``sharetune init --hours`` does one of a file."""

import sys
from collections.abc import Mapping
from typing import Any

from sharetune.search.commands.init import TRAINED, Proposal, Size, rehearsed
from sharetune.search.config import StudyConfig
from sharetune.search.gpus import workers_here
from sharetune.search.live import Live
from sharetune.search.sections import Budget
from sharetune.search.study_file import validate

LENGTHS = ("steps", "epochs", "tokens", "batch_size")
"""Keys of a recipe that say how much a trial trains."""


def is_fitted(budget: object) -> bool:
    """Return whether a budget has ``wall_hours``, and no number of trials."""
    given = budget.model_dump(exclude_unset=True) if isinstance(budget, Budget) else budget
    return isinstance(given, Mapping) and bool(given.get("wall_hours")) and "trials" not in given


def in_hours(config: StudyConfig, given: Mapping[str, Any], live: Live) -> StudyConfig:
    """Return the study with trials, steps, batches and rounds of latency that fit its hours.

    A batch of it is tried for that. Of the sections that were `given`, a length of trials, a batch
    size and a latency stay, and then the number of trials alone fits. Raises :class:`ConfigError`
    for hours in which ten trials train nothing.
    """
    hours, recipe = config.budget.wall_hours or 0.0, config.space.reference_recipe()
    with rehearsed(config, live) as (evaluator, pace):
        if pace is None:
            return config
        steps = evaluator.steps(recipe)
        workers = workers_here(config, pace)
        size = Size(config.budget.trials, steps, recipe.batch_size, config.latency.rounds)
    if _has_length(given.get("space")):
        seconds, each = TRAINED * 3600 * hours * workers, pace.trial_s(steps)
        return _changed(config, {"trials": size.trials_in(seconds, each)}, {}, {})
    size = size.fitting(hours, pace, workers)
    for warning in Proposal({}, size, pace.examples, hours).too_short():
        print(warning, file=sys.stderr)
    latency = {} if "latency" in given else {"rounds": size.rounds}
    lengths = {"steps": size.steps, "batch_size": size.batch}
    return _changed(config, {"trials": size.trials}, lengths, latency)


def as_before(
    config: StudyConfig, given: Mapping[str, Any], stored: Mapping[str, Any]
) -> StudyConfig:
    """Return the study of a run that goes on, with what was fitted into its hours at first."""
    recipe = {} if _has_length(given.get("space")) else stored["space"]["recipe"]
    lengths = {key: recipe[key] for key in LENGTHS if key in recipe}
    latency = {} if "latency" in given else stored["latency"]
    return _changed(config, {"trials": stored["budget"]["trials"]}, lengths, latency)


def _has_length(space: object) -> bool:
    """Return whether a space, as it was given, says how much a trial trains."""
    recipe = space.get("recipe") if isinstance(space, Mapping) else getattr(space, "recipe", None)
    return isinstance(recipe, Mapping) and bool({*LENGTHS} & set(recipe))


def _changed(
    config: StudyConfig,
    budget: Mapping[str, Any],
    recipe: Mapping[str, Any],
    latency: Mapping[str, Any],
) -> StudyConfig:
    data = config.model_dump(mode="json")
    data["budget"] |= budget
    data["space"]["recipe"] |= recipe
    data["latency"] |= latency
    return validate(data, "search()")
