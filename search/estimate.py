"""Say how long a study takes, and what memory and disk it needs, before its first trial ends."""

import math
import shutil
from pathlib import Path
from statistics import mean

from sharetune.results.formatting import duration, plural
from sharetune.search.config import StudyConfig
from sharetune.search.gpus import workers_here
from sharetune.search.search import Search
from sharetune.spaces.evaluator import Evaluator
from sharetune.spaces.pace import Pace
from sharetune.spaces.recipe import Candidate

GB = 1e9
"""Bytes of a gigabyte."""


def seconds_to_come(search: Search) -> float | None:
    """Estimate the seconds of all trials to come: by those that have ended, else by the rehearsal.

    It is no more than what is left of the budget's hours. None where there is neither.
    """
    config = search.config
    ended = [trial.seconds["total"] for trial in search.ledger.complete if trial.seconds]
    if ended:
        each = mean(ended)
    elif search.pace is not None:
        each = search.pace.trial_s(search.evaluator.steps(config.space.reference_recipe()))
    else:
        return None
    trials = max(0, config.budget.trials - search.ledger.started)
    whole = each * math.ceil(trials / workers_here(config, search.pace))
    hours = config.budget.wall_hours
    if hours is None:
        return whole
    return min(whole, max(0.0, 3600 * (hours - search.ledger.spending.wall)))


def expectation(config: StudyConfig, evaluator: Evaluator, pace: Pace, folder: Path) -> str:
    """Say what a study takes, by the unshared model: time, a worker's memory, disk in `folder`.

    Smaller models take less; models are kept as far as the study says.
    """
    recipe = config.space.reference_recipe()
    steps = evaluator.steps(recipe)
    each = pace.trial_s(steps)
    trials, workers = config.budget.trials, workers_here(config, pace)
    whole = duration(each * math.ceil(trials / workers))
    of_steps = f"{plural(steps, 'step')} of {duration(pace.step_s)}"
    kept = 0 if config.keep == "none" else trials
    disk = kept * evaluator.sizes(Candidate(recipe=recipe))["bytes"]
    free = shutil.disk_usage(folder).free
    return (
        f"a trial takes about {duration(each)} ({of_steps}), "
        f"{plural(trials, 'trial')} on {plural(workers, 'worker')} about {whole}; a worker needs "
        f"{pace.memory / GB:.1f} GB of memory, kept models at most {disk / GB:.1f} GB of disk, "
        f"where {free / GB:.0f} GB are free"
    )
