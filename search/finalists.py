"""Retrain finalists on further seeds: the front's members and the anchors, after the search.

The trainings that are wanted follow from the study alone, so that a resumed search finds those
that are left.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from optuna.trial import TrialState

from sharetune.results.judging.finals import middle_run
from sharetune.results.reading.trial import Trial
from sharetune.search.early_stopping import spread_over
from sharetune.search.sections import Finalists
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.objectives import Objective, quality_of
from sharetune.spaces.recipe import LENGTHS, SEEDS, Candidate, Recipe


@dataclass(frozen=True)
class Retraining:
    """A retraining of the candidate of trial `of` on another seed."""

    of: int
    candidate: Candidate


class Finals:
    """The retrainings of a study's finalists, those done and those left.

    Without `settings` none is wanted, and those already there are kept.
    """

    def __init__(self, settings: Finalists | None, objectives: Sequence[Objective]) -> None:
        self.settings, self.objectives = settings, tuple(objectives)
        self.left: deque[Retraining] = deque()
        self.is_planned = False
        self._done: set[str] = set()
        self._qualities: dict[int, dict[int, float]] = defaultdict(dict)

    def note(self, trial: Trial) -> None:
        """Note a retraining that has ended; one that failed is run again when the study resumes."""
        of = trial.finalist
        assert of is not None, "only retrainings are noted here"
        if trial.state is not TrialState.FAIL:
            self._done.add(trial.candidate.key())
        if trial.values is not None:
            self._qualities[of][trial.number] = trial.values[self._place_of_quality]

    def plan(
        self,
        front: Sequence[Trial],
        anchors: Sequence[Trial],
        searched: Collection[str],
    ) -> None:
        """Plan the retrainings that are left, once the search is over."""
        self.is_planned = True
        if self.settings is not None:
            finalists = choose(self.settings, front, anchors, self.objectives)
            wanted = retrainings(self.settings, finalists, searched)
            self.left = deque(run for run in wanted if run.candidate.key() not in self._done)

    def cost(self, front: int, anchors: int) -> float:
        """Estimate the cost of retraining such a front, in trainings of the search's length."""
        if self.settings is None:
            return 0.0
        if self.is_planned:
            return len(self.left) * self.settings.longer
        wanted = self.settings.seeds * (anchors + min(front, self.settings.most))
        return max(0, wanted - len(self._done)) * self.settings.longer

    def keeps(self, number: int, *, every: bool) -> bool:
        """Say whether the weights of trial `number`, a retraining, are kept.

        All are kept until a finalist's retrainings are complete; then the middle one's, or `every`
        one's.
        """
        runs = next((runs for runs in self._qualities.values() if number in runs), None)
        if runs is None:
            return False
        is_open = self.settings is None or len(runs) < self.settings.seeds
        return every or is_open or number == middle_run(runs)

    @property
    def _place_of_quality(self) -> int:
        """Index of the quality objective among a trial's values."""
        return self.objectives.index(quality_of(self.objectives))


def retrainings(
    settings: Finalists, finalists: Sequence[Trial], searched: Collection[str]
) -> list[Retraining]:
    """List all retrainings: the first seed of each finalist, then the second of each, and so on.

    Candidates whose keys were `searched` are not trained again; their seeds are skipped.
    """
    runs = [_runs(settings, trial, searched) for trial in finalists]
    return [run for same_turn in zip(*runs, strict=True) for run in same_turn]


def choose(
    settings: Finalists,
    front: Sequence[Trial],
    anchors: Sequence[Trial],
    objectives: Sequence[Objective],
) -> list[Trial]:
    """Choose the finalists: the anchors, and at most `settings.most` other members, spread evenly.

    Trials that differ in their seed alone are one finalist.
    """
    reference = [trial for trial in anchors if trial.anchor in ANCHORS]
    known = {_but_for_seed(trial) for trial in reference}
    others = {_but_for_seed(trial): trial for trial in sorted(front, key=_number)[::-1]}
    members = sorted((t for key, t in others.items() if key not in known), key=_number)
    points = np.array([trial.values for trial in members], dtype=float)
    kept = spread_over(points * [o.sign for o in objectives], settings.most) if members else []
    return sorted([*reference, *(members[i] for i in kept)], key=_number)


def _runs(settings: Finalists, trial: Trial, searched: Collection[str]) -> Iterator[Retraining]:
    candidate = trial.candidate
    recipe = lengthened(candidate.recipe, settings.longer)
    seeds = (seed % SEEDS for seed in count(recipe.seed + 1))
    runs = (
        candidate.model_copy(update={"recipe": recipe.model_copy(update={"seed": seed})})
        for seed in seeds
    )
    fresh = (run for run in runs if run.key() not in searched)
    return (Retraining(trial.number, run) for run in islice(fresh, settings.seeds))


def lengthened(recipe: Recipe, factor: float) -> Recipe:
    """Return the recipe with `factor` times its steps, epochs or tokens."""
    given = {name: getattr(recipe, name) for name in LENGTHS}
    longer = {name: factor * value for name, value in given.items() if value is not None}
    whole = {name: value if name == "epochs" else round(value) for name, value in longer.items()}
    return recipe.model_copy(update=whole)


def _but_for_seed(trial: Trial) -> str:
    candidate = trial.candidate
    recipe = candidate.recipe.model_copy(update={"seed": 0})
    return candidate.model_copy(update={"recipe": recipe}).key()


def _number(trial: Trial) -> int:
    return trial.number
