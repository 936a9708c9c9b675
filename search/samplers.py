"""Where the next candidate comes from.

A :class:`Proposer` keeps what the study has shown in memory and draws from it; the study's
storage only records. Optuna's samplers draw in a study of their own in memory, which holds the
front, the latest trials and a sample of the others, so that asking costs the same however large
the study has become.

Every draw is seeded by the study's seed and the number of trials present, so that a resumed
study goes on where it was and does not repeat its first points.
"""

import random as stdlib_random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.store import Draw
from spaces.objectives import Objective
from spaces.plan import StackShape
from spaces.recipe import Candidate
from spaces.registry import Registry
from spaces.space import Space

SAMPLERS: Registry[Callable[[int, int], BaseSampler]] = Registry("sampler")

REBUILT_AFTER = 50
LATEST, SAMPLED, MOST_OF_FRONT = 50, 40, 60
"""What the study in memory holds of a large study."""


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


def make_sampler(name: str, *, seed: int, trials_present: int, budget: int) -> BaseSampler:
    """The sampler for the next draw of a study with this budget of trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](draw_seed(seed, trials_present), budget)


def draw_seed(seed: int, trials_present: int) -> int:
    """The seed of one draw."""
    return (seed * 1_000_003 + trials_present) % 2**32


@dataclass
class _Past:
    """What the sampler needs of a trial, and nothing that grows with what was measured."""

    draw: Draw
    state: TrialState
    values: tuple[float, ...] | None = None

    def template(self) -> FrozenTrial:
        """The trial for a study in memory."""
        return create_trial(
            state=self.state,
            values=None if self.values is None else list(self.values),
            params=self.draw.params,
            distributions=self.draw.distributions,
            system_attrs=self.draw.system_attrs,
        )


def draw_of(trial: FrozenTrial) -> Draw:
    """The draw that a trial was started with."""
    return Draw(dict(trial.params), dict(trial.distributions), dict(trial.system_attrs))


class Proposer:
    """Draws candidates for a study with these objectives by the sampler `name`."""

    def __init__(self, name: str, objectives: Sequence[Objective], *, seed: int, budget: int):
        self.name, self.seed, self.budget = name, seed, budget
        self._directions = [objective.direction for objective in objectives]
        self._past: dict[int, _Past] = {}
        self._twins: dict[int, int] = {}
        self._shadow = self._new_shadow()
        self._until_rebuilt = REBUILT_AFTER

    def draw(
        self, space: Space, shapes: Mapping[str, StackShape], trials_present: int
    ) -> tuple[Candidate, Draw]:
        """A candidate and the parameters it was made of."""
        if self._until_rebuilt == 0:
            self._rebuild()
        self._until_rebuilt -= 1
        self._shadow.sampler = make_sampler(
            self.name, seed=self.seed, trials_present=trials_present, budget=self.budget
        )
        trial = self._shadow.ask()
        candidate = space.suggest(trial, shapes)
        drawn = draw_of(self._shadow.get_trials(deepcopy=False)[trial.number])
        self._shadow.tell(trial.number, state=TrialState.FAIL)
        return candidate, drawn

    def started(self, number: int, draw: Draw) -> None:
        """Trial `number` runs."""
        self._note(number, _Past(draw, TrialState.RUNNING))

    def ended(self, number: int, state: TrialState, values: Sequence[float] | None) -> None:
        """How trial `number`, which ran, ended."""
        past = self._past[number]
        self._note(number, _Past(past.draw, state, tuple(values) if values else None))

    def remember(self, trial: FrozenTrial) -> None:
        """A finished trial, from the storage or answered without being run."""
        values = tuple(trial.values) if trial.values else None
        self._note(trial.number, _Past(draw_of(trial), trial.state, values))

    def _note(self, number: int, past: _Past) -> None:
        self._past[number] = past
        twin = self._twins.pop(number, None)
        if twin is not None:
            self._shadow.tell(
                twin, state=past.state, values=list(past.values) if past.values else None
            )
        elif past.draw.params:
            self._add(number, past)

    def _add(self, number: int, past: _Past) -> None:
        position = len(self._shadow.get_trials(deepcopy=False))
        self._shadow.add_trial(past.template())
        if past.state is TrialState.RUNNING:
            self._twins[number] = position

    def _rebuild(self) -> None:
        self._until_rebuilt = REBUILT_AFTER
        self._shadow, self._twins = self._new_shadow(), {}
        for number in sorted(self._chosen()):
            self._add(number, self._past[number])

    def _chosen(self) -> set[int]:
        numbers = [number for number, past in self._past.items() if past.draw.params]
        rng = stdlib_random.Random(draw_seed(self.seed, len(self._past)))
        front = self._front(numbers)
        chosen = set(numbers[-LATEST:]) | set(rng.sample(front, min(MOST_OF_FRONT, len(front))))
        chosen |= {n for n in numbers if self._past[n].state is TrialState.RUNNING}
        others = [number for number in numbers if number not in chosen]
        return chosen | set(rng.sample(others, min(SAMPLED, len(others))))

    def _front(self, numbers: list[int]) -> list[int]:
        complete = [n for n in numbers if self._past[n].state is TrialState.COMPLETE]
        if not complete:
            return []
        values = np.array([self._past[n].values for n in complete], dtype=float)
        larger = [direction == "maximize" for direction in self._directions]
        kept = moocore.is_nondominated(values, maximise=larger)
        return [number for number, keep in zip(complete, kept, strict=True) if keep]

    def _new_shadow(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(directions=self._directions)
