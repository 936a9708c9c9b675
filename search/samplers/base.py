"""Where the next candidate comes from.

A sampler keeps what the study has shown in memory and draws from it; the study's storage only
records. Optuna's draw in a study of their own in memory, which holds the front, the latest trials
and a sample of the others, so that asking costs the same however large the study has become.

Every draw is seeded by the study's seed and the number of draws before it, so that a resumed study
goes on where it was and does not repeat its first points.
"""

import random as stdlib_random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import moocore
import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sharetune.results.reading.trial import Draw
from sharetune.spaces.objectives import Objective
from sharetune.spaces.plan import StackShape
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.registry import Registry
from sharetune.spaces.space import Space

REBUILT_AFTER = 50
LATEST, SAMPLED, MOST_OF_FRONT = 50, 40, 60
"""What the study in memory holds of a large study."""
LEAST_TO_LEARN = 12
"""Trials in a budget from which `auto` goes by a model of what was seen."""


@dataclass(frozen=True)
class Setting:
    """What a sampler must know of its study. `reference` is the hypervolume's, by objective.

    `weighs_fast` says whether sizes take milliseconds to know.
    """

    objectives: tuple[Objective, ...]
    seed: int
    budget: int
    reference: Mapping[str, float]
    weighs_fast: bool = True


@dataclass(frozen=True)
class Ask:
    """What a sampler may ask while it draws: `drawn` counts the draws before.

    `is_known` says whether the candidate of a key needs no training any more; `weigh` gives what is
    exact of a candidate, or None where it may not be trained.
    """

    space: Space
    shapes: Mapping[str, StackShape]
    drawn: int
    is_known: Callable[[str], bool]
    weigh: Callable[[Candidate], dict[str, float] | None]


@dataclass(frozen=True)
class Past:
    """A trial as samplers see it. `expected` is what a stopped one would have come to."""

    number: int
    candidate: Candidate
    draw: Draw
    state: TrialState
    exact: dict[str, float] | None = None
    values: tuple[float, ...] | None = None
    expected: np.ndarray | None = None


class Sampler(Protocol):
    """Draws candidates, and is told of every trial as it starts and as it ends."""

    def draw(self, ask: Ask) -> tuple[Candidate, Draw]: ...
    def note(self, past: Past) -> None: ...


SAMPLERS: Registry[Callable[[Setting], Sampler]] = Registry(
    "sampler", package="sharetune.search.samplers"
)


def make_sampler(name: str, setting: Setting) -> Sampler:
    """The sampler `name`; ``auto`` chooses by the budget, and by what sizes cost to know."""
    return SAMPLERS[_chosen(setting) if name == "auto" else name](setting)


def _chosen(setting: Setting) -> str:
    if setting.budget < LEAST_TO_LEARN:
        return "random"
    return "guided" if setting.weighs_fast else "tpe"


def draw_seed(seed: int, drawn: int) -> int:
    """The seed of one draw."""
    return (seed * 1_000_003 + drawn) % 2**32


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


class InMemory:
    """An Optuna sampler, made anew for every draw, over a study in memory."""

    def __init__(self, setting: Setting, sampler: Callable[[int], BaseSampler]) -> None:
        self.setting, self.sampler = setting, sampler
        self._past: dict[int, Past] = {}
        self._places: dict[int, int] = {}
        self._study = self._new_study()
        self._until_rebuilt = REBUILT_AFTER

    def draw(self, ask: Ask) -> tuple[Candidate, Draw]:
        """A candidate and the parameters it was made of."""
        if self._until_rebuilt == 0:
            self._rebuild()
        self._until_rebuilt -= 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self.sampler(draw_seed(self.setting.seed, ask.drawn))
        trial = self._study.ask()
        candidate = ask.space.suggest(trial, ask.shapes)
        drawn = draw_of(self._study.get_trials(deepcopy=False)[trial.number])
        self._study.tell(trial.number, state=TrialState.FAIL)  # its twin is added as it starts
        return candidate, drawn

    def note(self, past: Past) -> None:
        """Takes up a trial that was started, or has ended."""
        if not past.draw.params:
            return
        self._past[past.number] = past
        place = self._places.pop(past.number, None)
        if place is None:
            self._add(past)
        else:
            values = None if past.values is None else list(past.values)
            self._study.tell(place, state=past.state, values=values)

    def _add(self, past: Past) -> None:
        if past.state is TrialState.RUNNING:
            self._places[past.number] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(
            create_trial(
                state=past.state,
                values=None if past.values is None else list(past.values),
                params=past.draw.params,
                distributions=past.draw.distributions,
                system_attrs=past.draw.system_attrs,
            )
        )

    def _rebuild(self) -> None:
        self._until_rebuilt = REBUILT_AFTER
        self._study, self._places = self._new_study(), {}
        for number in sorted(self._chosen()):
            self._add(self._past[number])

    def _chosen(self) -> set[int]:
        numbers = list(self._past)
        rng = stdlib_random.Random(draw_seed(self.setting.seed, len(numbers)))
        front = self._front(numbers)
        chosen = set(numbers[-LATEST:]) | set(rng.sample(front, min(MOST_OF_FRONT, len(front))))
        chosen |= {n for n in numbers if self._past[n].state is TrialState.RUNNING}
        others = [number for number in numbers if number not in chosen]
        return chosen | set(rng.sample(others, min(SAMPLED, len(others))))

    def _front(self, numbers: Sequence[int]) -> list[int]:
        complete = [n for n in numbers if self._past[n].values is not None]
        if not complete:
            return []
        values = np.array([self._past[n].values for n in complete], dtype=float)
        larger = [objective.direction == "maximize" for objective in self.setting.objectives]
        kept = moocore.is_nondominated(values, maximise=larger)
        return [number for number, keep in zip(complete, kept, strict=True) if keep]

    def _new_study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(directions=[o.direction for o in self.setting.objectives])


def draw_of(trial: FrozenTrial) -> Draw:
    """The draw that a trial was started with."""
    return Draw(dict(trial.params), dict(trial.distributions), dict(trial.system_attrs))
