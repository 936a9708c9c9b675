"""All that the trials of a study have shown, as the search needs it.

A trial that was stored by an earlier process and one that has just ended are added alike, so that
to resume a search is to go on as if it had never stopped.
"""

from collections.abc import Mapping

import numpy as np
from optuna.trial import TrialState

from sharetune.results.reading.trial import Trial
from sharetune.search.budget import Growth, Spending
from sharetune.search.config import StudyConfig
from sharetune.search.early_stopping import EarlyStopper
from sharetune.search.finalists import Finals
from sharetune.search.nondominated import Archive
from sharetune.search.samplers.base import Past, Sampler
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.evaluator import Metrics
from sharetune.spaces.objectives import Objective


class Ledger:
    """The trials of a study: what is known, complete and on the front, and what they cost.

    `reference` is the hypervolume's reference point by objective. `known` maps the key of each
    candidate that needs no training any more to its trial; `drawn` counts the candidates that were
    recorded, `started` those of them that were trained or are in training.
    """

    def __init__(
        self,
        config: StudyConfig,
        objectives: tuple[Objective, ...],
        reference: Mapping[str, float],
        sampler: Sampler,
    ) -> None:
        self.config, self.objectives, self.sampler = config, objectives, sampler
        self.stopper = EarlyStopper(objectives, eta=config.early_stopping.eta)
        self.spending = Spending(config.resources)
        self.finals = Finals(config.finalists, objectives)
        self.growth = _growth(config, objectives, reference)
        self.known: dict[str, int] = {}
        self.drawn = self.started = 0
        self._sign = np.array([objective.sign for objective in objectives])
        self._running: set[int] = set()
        self._complete: dict[int, Trial] = {}
        self._front = Archive(len(objectives))

    @property
    def complete(self) -> list[Trial]:
        """Trials that were trained to their end for the search, repeats left out."""
        return list(self._complete.values())

    @property
    def front(self) -> list[Trial]:
        """Complete trials that no other beats in every objective."""
        return [self._complete[number] for number in self._front.numbers]

    @property
    def anchors(self) -> list[Trial]:
        """Complete trials that no sampler proposed: anchors and plans of the study file."""
        return [trial for trial in self.complete if trial.anchor is not None]

    def find(self, number: int) -> Trial | None:
        """Return a complete trial by its number."""
        return self._complete.get(number)

    def is_on_front(self, number: int) -> bool:
        """Say whether the trial is on the front."""
        return number in self._front

    @property
    def retrainings_left(self) -> float:
        """About how many trainings, of the search's length, finalists still take."""
        if self.config.finalists is None:
            return 0.0
        anchors = sum(trial.anchor in ANCHORS for trial in self.complete)
        members = sum(trial.anchor not in ANCHORS for trial in self.front)
        return self.finals.cost(members, anchors)

    def start(self, trial: Trial) -> None:
        """Note a trial whose training begins."""
        self._count(trial)
        self._running.add(trial.number)
        self.known[trial.candidate.key()] = trial.number
        self.sampler.note(self._past(trial))

    def add(self, trial: Trial) -> None:
        """Note a trial that has ended, now or in an earlier process."""
        if trial.finalist is not None:
            self._add_retraining(trial)
            return
        if trial.number not in self._running:
            self._count(trial)
        self._running.discard(trial.number)
        if trial.is_interrupted:
            return
        if trial.started:
            self._add_trained(trial)
        self.sampler.note(self._past(trial))

    def reached(self, trial: Trial, rung: int, metrics: Metrics) -> bool:
        """Note the metrics of a running trial at `rung`; return whether its training goes on."""
        goes_on = self.stopper.reached(trial.number, rung, metrics | trial.sizes)
        return goes_on or rung < self.config.early_stopping.first_rung(trial.number)

    def _count(self, trial: Trial) -> None:
        self.drawn += 1
        self.started += trial.started and not trial.is_interrupted

    def _add_retraining(self, trial: Trial) -> None:
        if not trial.is_interrupted:
            self.spending.add(trial)
            self.finals.note(trial)

    def _add_trained(self, trial: Trial) -> None:
        self.spending.add(trial)
        for reached in trial.rungs or ():
            self.stopper.reached(trial.number, int(reached["rung"]), reached | trial.sizes)
        key = trial.candidate.key()
        if trial.state is TrialState.FAIL:
            self.known.pop(key, None)
        else:
            self.known[key] = trial.number
        if trial.is_complete:
            self._add_complete(trial)

    def _add_complete(self, trial: Trial) -> None:
        self._complete[trial.number] = trial.slim()
        self._front.add(trial.number, self._sign * np.array(trial.values))
        names = (objective.name for objective in self.objectives)
        self.stopper.finished(trial.number, dict(zip(names, trial.values or (), strict=True)))
        if self.growth is not None:
            self.growth.add([kept.values or () for kept in self.front])

    def _past(self, trial: Trial) -> Past:
        expected = None
        if trial.state is TrialState.PRUNED and trial.rungs is not None:
            expected = self.stopper.expected(trial.number)
        exact = None if trial.same_as is not None else trial.sizes or None
        return Past(
            trial.number, trial.candidate, trial.draw, trial.state, exact, trial.values, expected
        )


def _growth(
    config: StudyConfig, objectives: tuple[Objective, ...], reference: Mapping[str, float]
) -> Growth | None:
    if config.budget.stagnation is None:
        return None
    point = [reference[objective.name] for objective in objectives]
    return Growth(objectives, point, config.budget.stagnation.window)
