"""Optuna's samplers with the settings that suit sharing plans.

A sampler is made anew for every ask and seeded by the study's seed and the number of trials
present, so that a resumed study goes on where it was and does not repeat its first points.
"""

import warnings
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler

from spaces.registry import Registry

SAMPLERS: Registry[Callable[[int, int], BaseSampler]] = Registry("sampler")


def make_sampler(name: str, *, seed: int, trials_present: int, budget: int) -> BaseSampler:
    """The sampler for the next ask of a study with this budget of trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name]((seed * 1_000_003 + trials_present) % 2**32, budget)


@SAMPLERS.register("tpe")
def tpe(seed: int, budget: int) -> BaseSampler:
    """multi-objective TPE; joint over parameters, aware of running trials"""
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=max(5, min(20, budget // 3)),
        multivariate=True,
        group=True,
        constant_liar=True,
    )


@SAMPLERS.register("nsga2")
def nsga2(seed: int, budget: int) -> BaseSampler:
    """NSGA-II with a population that fits the budget"""
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(8, min(50, budget // 5)))


@SAMPLERS.register("random")
def random(seed: int, budget: int) -> BaseSampler:
    """uniform draws, for reference"""
    return optuna.samplers.RandomSampler(seed=seed)
