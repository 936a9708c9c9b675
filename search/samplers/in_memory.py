"""Optuna's samplers over a study in memory.

That study holds the front, the latest trials and a sample of the others, so that asking costs the
same however large the study has become.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import moocore
import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from sharetune.results.reading.trial import Draw
from sharetune.search.samplers.base import Ask, Past, Setting, draw_of, draw_seed
from sharetune.spaces.recipe import Candidate

REBUILT_AFTER = 50
"""Draws after which the study in memory is made anew."""

LATEST = 50
"""Latest trials that the study in memory holds of a large study."""

SAMPLED = 40
"""Further trials it holds, drawn at random from the rest."""

MOST_OF_FRONT = 60
"""Members of the front it holds at most."""


class InMemory:
    """An Optuna sampler, made anew for every draw, over a study in memory."""

    def __init__(self, setting: Setting, sampler: Callable[[int], BaseSampler]) -> None:
        self.setting, self.sampler = setting, sampler
        self._past: dict[int, Past] = {}
        self._places: dict[int, int] = {}
        self._study = self._new_study()
        self._until_rebuilt = REBUILT_AFTER

    def draw(self, ask: Ask) -> tuple[Candidate, Draw]:
        """Draw a candidate; return it with the parameters it was made of."""
        if self._until_rebuilt == 0:
            self._rebuild()
        self._until_rebuilt -= 1
        with not_warned():
            self._study.sampler = self.sampler(draw_seed(self.setting.seed, ask.drawn))
        trial = self._study.ask()
        candidate = ask.space.suggest(trial, ask.shapes)
        drawn = draw_of(self._study.get_trials(deepcopy=False)[trial.number])
        self._study.tell(trial.number, state=TrialState.FAIL)  # its twin is added as it starts
        return candidate, drawn

    def note(self, past: Past) -> None:
        """Note a trial that was started, or has ended."""
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
        rng = random.Random(draw_seed(self.setting.seed, len(numbers)))
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
        return new_study(self.setting)


def new_study(setting: Setting) -> optuna.Study:
    """Return an empty study in memory with the objectives of `setting`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=[o.direction for o in setting.objectives])


@contextmanager
def not_warned() -> Iterator[None]:
    """Silence Optuna's warnings about experimental samplers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
