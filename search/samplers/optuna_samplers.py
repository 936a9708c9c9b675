"""Optuna's samplers with settings that suit a study's budget."""

import optuna
from optuna.samplers import BaseSampler

from sharetune.search.samplers.base import SAMPLERS, Sampler, Setting
from sharetune.search.samplers.in_memory import InMemory


@SAMPLERS.register("tpe")
def tpe(setting: Setting) -> Sampler:
    """multi-objective TPE; joint over parameters, aware of running trials"""

    def sampler(seed: int) -> BaseSampler:
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=max(5, min(20, setting.budget // 3)),
            multivariate=True,
            group=True,
            constant_liar=True,
        )

    return InMemory(setting, sampler)


@SAMPLERS.register("nsga2")
def nsga2(setting: Setting) -> Sampler:
    """NSGA-II with a population that fits the budget"""
    population = max(8, min(50, setting.budget // 5))
    return InMemory(
        setting, lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
    )


@SAMPLERS.register("random")
def random(setting: Setting) -> Sampler:
    """uniform draws, for reference"""
    return InMemory(setting, lambda seed: optuna.samplers.RandomSampler(seed=seed))
