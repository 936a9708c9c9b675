"""Estimate how long a search takes before its first trial has ended, by FLOPs."""

import math
import os
import sys
from collections.abc import Mapping

from sharetune.search.search import Search
from sharetune.spaces.evaluator import Sizes
from sharetune.spaces.recipe import Candidate, Recipe

BACKWARD = 2.0
"""FLOPs of a backward pass, as a multiple of the forward pass: one for inputs, one for weights."""

USED = 0.3
"""Fraction of a processor's rate of matrix products that a training reaches, about."""


TRIAL_S = 0.5
"""Seconds of a trial besides its steps: loading, sharing and saving a small model."""

STEP_S = 0.01
"""Seconds of a step besides its products; for tiny models this is most of it."""


def seconds_of_search(search: Search) -> float | None:
    """Estimate the seconds of all trials; None where models' libraries are not loaded here.

    It is rough, and on a busy machine too low: finished trials say more.
    """
    if "torch" not in sys.modules:
        return None
    from sharetune.trainers.measuring.throughput import flops_per_second

    config = search.config
    recipe = config.space.reference_recipe()
    sizes = search.evaluator.sizes(Candidate(recipe=recipe))
    rows = search.evaluator.rows
    fixed = TRIAL_S + STEP_S * steps_of(recipe, rows)
    trials = max(0, config.budget.trials - search.ledger.started)
    at_once = 1 if config.executor == "local" else _workers(search)
    rate = USED * flops_per_second(config.resources.cpu)
    return math.ceil(trials / at_once) * (fixed + flops_of_trial(recipe, sizes, rows) / rate)


def steps_of(recipe: Recipe, rows: Mapping[str, int]) -> int:
    """Return the optimiser steps of a training."""
    if recipe.steps is not None:
        return recipe.steps
    return math.ceil((recipe.epochs or 3) * rows.get("train", 0) / recipe.batch_size)


def flops_of_trial(recipe: Recipe, sizes: Sizes, rows: Mapping[str, int]) -> float:
    """Return the FLOPs of training the unshared model and measuring it once."""
    trained = (1 + BACKWARD) * steps_of(recipe, rows) * recipe.batch_size
    judged = rows.get("validation", rows.get("test", 0))
    return sizes["flops"] * (trained + judged)


def _workers(search: Search) -> int:
    resources = search.config.resources
    per_trial = resources.cpu * resources.workers_per_trial
    return resources.workers or max(1, (os.cpu_count() or 1) // per_trial)
