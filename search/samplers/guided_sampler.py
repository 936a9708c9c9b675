"""An Optuna sampler for studies some of whose objectives are exact functions of the parameters.

It knows nothing of models: whatever is costly to measure in one objective and computed at once in
another, such as the score of a network and its size, can be searched by it.

>>> sampler = GuidedSampler({1: lambda params: params["width"] ** 2})
>>> study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sharetune.results.reading.trial import Draw
from sharetune.search.samplers.base import Ask, Past, Setting
from sharetune.search.samplers.features import Drawer
from sharetune.search.samplers.guided import Guided
from sharetune.spaces.leaves import Trial
from sharetune.spaces.objectives import Objective
from sharetune.spaces.recipe import Candidate

Exact = Callable[[dict[str, Any]], float | None]
"""Computes an objective from parameters; None: they shall not be tried."""

MOST_DRAWS = 100
"""Draws in a row until one may be tried; then the last is taken."""

BEYOND_WORST = 0.1
"""Distance of the reference point beyond the worst values seen, as a fraction of their range."""


@dataclass(frozen=True)
class Parameters:
    """A candidate of any study: its parameters, and the ranges that they come from."""

    draw: Draw

    def key(self) -> str:
        """Return a text that is the same for equal parameters."""
        return json.dumps(self.draw.params, sort_keys=True, default=str)


@dataclass(frozen=True)
class AnySpace:
    """A space that draws parameters by calling `suggest` with a trial."""

    suggest_all: Callable[[Any], object]

    def suggest(self, trial: Trial, shapes: Mapping[str, Any]) -> Parameters:
        """Draw a candidate."""
        self.suggest_all(trial)
        return Parameters(cast(Drawer, trial).draw)


class GuidedParameters(Guided):
    """The guided sampler over plain parameters."""

    def go_on_from(self, earlier: "GuidedParameters") -> None:
        """Take over the pool of candidates of an earlier draw."""
        self._pool = earlier._pool
        for weighed in self._pool.values():
            weighed.guess = None

    def row_of(self, candidate: Candidate, exact: dict[str, float]) -> dict[str, float]:
        """Describe parameters by numbers: logarithms where the range is logarithmic."""
        draw = cast(Parameters, candidate).draw
        row = {f"exact {name}": value for name, value in exact.items()}
        for name, value in draw.params.items():
            distribution = draw.distributions[name]
            if isinstance(distribution, CategoricalDistribution):
                row[f"{name} is {value}"] = 1.0
            else:
                logarithmic = getattr(distribution, "log", False)
                row[name] = math.log(value) if logarithmic else float(value)
        return row


class GuidedSampler(BaseSampler):
    """Proposes the parameters with the largest expected gain in hypervolume.

    `exact` maps an objective's place (0-based) to the function that computes it from the
    parameters; at least one objective must be left to be measured. For each proposal a few dozen
    candidates are drawn and their exact objectives computed; a forest of randomised trees, fitted
    to the finished trials, estimates the others. Until 8 trials have ended, parameters are drawn
    at random.

    `space` is a function that suggests all parameters of a trial, such as the beginning of the
    objective; with it conditional parameters are proposed, too. Without it those are proposed that
    all finished trials have, and the others are drawn at random. `reference` holds a value for each
    objective that every useful trial is better than; by default it lies 10 % beyond the worst seen.

    Raises ``ValueError`` if every or no objective is exact, or a place is none of the study's.
    """

    def __init__(
        self,
        exact: Mapping[int, Exact],
        *,
        space: Callable[[Any], object] | None = None,
        reference: Sequence[float] | None = None,
        seed: int | None = None,
    ) -> None:
        if not exact:
            raise ValueError("at least one objective must be exact, such as {1: cost}")
        self.exact, self.space, self.reference = dict(exact), space, reference
        self._random = RandomSampler(seed=seed)
        self._seed = seed
        self._intersection = IntersectionSearchSpace()
        self._drawn: dict[int, dict[str, Any]] = {}
        self._guided: GuidedParameters | None = None

    def reseed_rng(self) -> None:
        """Draw a new seed, so that processes that work on one study differ."""
        self._random.reseed_rng()
        self._seed = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the ranges of the parameters that :meth:`sample_relative` proposes."""
        if self.space is None:
            return dict(self._intersection.calculate(study))
        draw = self._draw(study, trial, self.space)
        self._drawn[trial.number] = draw.params
        return dict(draw.distributions)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the proposed parameters by name."""
        if trial.number in self._drawn:
            return self._drawn.pop(trial.number)
        if not search_space:
            return {}
        return self._draw(study, trial, lambda drawer: _suggest_each(drawer, search_space)).params

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter at random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _draw(
        self, study: optuna.Study, trial: FrozenTrial, space: Callable[[Any], object]
    ) -> Draw:
        """Return the best of a pool of candidates, by all that the study has shown."""
        trials = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        objectives = self._objectives(study)
        seed = (
            self._seed if self._seed is not None else int(np.random.default_rng().integers(2**31))
        )
        reference = self._reference(study, trials)
        named = {o.name: value for o, value in zip(objectives, reference, strict=True)}
        guided = GuidedParameters(Setting(objectives, seed, len(trials), named))
        if self._guided is not None:
            guided.go_on_from(self._guided)
        self._guided = guided
        past = [found for one in trials if (found := self._past(one)) is not None]
        for one in past:
            guided.note(one)
        known = {one.candidate.key() for one in past}
        ask = Ask(cast(Any, AnySpace(space)), {}, len(trials), known.__contains__, self._weigh)
        for turn in range(MOST_DRAWS):
            drawn = guided.draw(replace(ask, drawn=len(trials) + turn * 1_000_003))[1]
            if self._weigh(cast(Candidate, Parameters(drawn))) is not None:
                break
        return drawn

    def _objectives(self, study: optuna.Study) -> tuple[Objective, ...]:
        directions = study.directions
        unknown = [place for place in self.exact if not 0 <= place < len(directions)]
        if unknown or len(self.exact) >= len(directions):
            raise ValueError(
                f"exact names the objectives {sorted(self.exact)} of a study with "
                f"{len(directions)}; one at least must be left to be measured"
            )
        return tuple(
            Objective(
                _name(place),
                _name(place),
                "maximize" if direction == StudyDirection.MAXIMIZE else "minimize",
                source="exact" if place in self.exact else "trained",
            )
            for place, direction in enumerate(directions)
        )

    def _reference(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> Sequence[float]:
        if self.reference is not None:
            return self.reference
        ended = [one.values for one in trials if one.state is TrialState.COMPLETE]
        if not ended:
            return [0.0] * len(study.directions)
        values = np.array(ended)
        low, high = values.min(axis=0), values.max(axis=0)
        beyond = BEYOND_WORST * np.where(high > low, high - low, 1.0)
        larger = [direction == StudyDirection.MAXIMIZE for direction in study.directions]
        return [float(x) for x in np.where(larger, low - beyond, high + beyond)]

    def _past(self, trial: FrozenTrial) -> Past | None:
        """Return a trial as the guided sampler sees it; None if its parameters are not known."""
        if not trial.params or trial.state is TrialState.FAIL:
            return None
        draw = Draw(dict(trial.params), dict(trial.distributions))
        candidate = cast(Candidate, Parameters(draw))
        exact = self._weigh(candidate)
        values = None if trial.values is None else tuple(trial.values)
        return Past(trial.number, candidate, draw, trial.state, exact, values)

    def _weigh(self, candidate: Candidate) -> dict[str, float] | None:
        """Return the exact objectives by name; None if the parameters shall not be tried."""
        found = {}
        params = cast(Parameters, candidate).draw.params
        for place, compute in self.exact.items():
            value = compute(dict(params))
            if value is None:
                return None
            found[_name(place)] = float(value)
        return found


def _name(place: int) -> str:
    return f"objective {place}"


def _suggest_each(drawer: Drawer, ranges: Mapping[str, BaseDistribution]) -> None:
    for name, given in ranges.items():
        if isinstance(given, CategoricalDistribution):
            drawer.suggest_categorical(name, cast(list[str], list(given.choices)))
        elif isinstance(given, IntDistribution):
            drawer.suggest_int(name, given.low, given.high, step=given.step, log=given.log)
        elif isinstance(given, FloatDistribution):
            drawer.suggest_float(name, given.low, given.high, step=given.step, log=given.log)
