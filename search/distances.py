"""Know how far candidates' plans, untrained, move the model, before any of them is trained.

A distance costs a forward pass over the scored examples, a small part of a training. The plans that
are about to be trained are measured, and those that the sampler cannot tell apart otherwise, within
a share of the time that is spent on training. Each is written next to the edits' scores, so that a
plan is measured once a study.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.results.reading.trial import Trial
from sharetune.search.config import StudyConfig
from sharetune.search.untrained import score_untrained
from sharetune.spaces.evaluator import Evaluator, JobResources, PlanScore, Sizes
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import plan_of
from sharetune.spaces.planning.prediction import Predictor
from sharetune.spaces.planning.rivals import RivalFronts
from sharetune.spaces.planning.score_file import ScoreFile
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder

SHARE = 0.25
"""Part of a training's cost, in examples that pass through the model, for which plans may be
measured that the sampler considers."""

FAR = 4.0
"""Multiple of the distances of plans no larger from which a plan is not trained."""

REFUSED = 8
"""Candidates refused in a row after which the next one is trained however far it is."""

CLOSER = 3
"""Trained plans no larger that must be `FAR` times closer for a candidate to be refused."""


class Distances:
    """The distances of a study's plans; off where its edits were not scored.

    `started` returns the number of trainings that the study has begun.
    """

    def __init__(
        self,
        config: StudyConfig,
        run: RunFolder,
        evaluator: Evaluator,
        noted: Mapping[str, Any],
        started: Callable[[], int],
    ) -> None:
        scoring = noted.get(record.SCORING) or {}
        self._file = ScoreFile(run.scores)
        self.is_on = bool(scoring.get("edits")) and self._file.exists
        stored = self._file.read() if self.is_on else None
        scored = [] if stored is None else stored.all_scored
        self._known = {plan_of([one.edit]): PlanScore(one.cost) for one in scored}
        self._known |= {} if stored is None else stored.plans
        self._predictor = Predictor(scored)
        self._predicted: dict[SharingPlan, float | None] = {}
        self._evaluator, self._resources = evaluator, JobResources(config.resources.cpu)
        self._exact = [n for n in config.objectives if OBJECTIVES[n].source == "exact"]
        scores = scoring.get("scores_a_training")
        self._for_each = math.inf if scores is None else SHARE * scores
        self._refused = 0
        self._started, self._measured = started, len(self._known) - len(scored)

    def known(self, candidate: Candidate) -> Sizes:
        """Return the plan's ``distance``, if it was measured, and its ``predicted_distance``."""
        if not self.is_on:
            return {}
        found = {"predicted_distance": self._prediction(candidate.plan)}
        measured = self._known.get(candidate.plan)
        found["distance"] = None if measured is None else measured.distance
        return {name: value for name, value in found.items() if value is not None}

    def rivals(self) -> RivalFronts:
        """Return the best plans of each kind alone, solved from the study's scores."""
        stored = self._file.read()
        return RivalFronts(stored.all_scored, stored.header.unshared)

    def _prediction(self, plan: SharingPlan) -> float | None:
        if plan not in self._predicted:
            self._predicted[plan] = self._predictor.predict(plan, self._evaluator.stacks)
        return self._predicted[plan]

    @property
    def may_measure(self) -> bool:
        """Whether the plans measured so far are within their share of the trainings' cost."""
        return self.is_on and self._measured <= self._for_each * (self._started() + 1)

    def measure(self, candidate: Candidate) -> None:
        """Measure the candidate's plan, if it has no distance yet; a plan without one stays so."""
        if not self.is_on or candidate.plan in self._known:
            return
        self._measured += 1
        found = score_untrained(self._evaluator, candidate, self._resources)
        if isinstance(found, PlanScore):
            self._known[candidate.plan] = found
            self._file.add_plan(candidate.plan, found)

    def judged(self, sizes: Sizes, trained: Iterable[Trial]) -> str | None:
        """Say why a candidate that was drawn is not trained, or return None; see :meth:`refusal`.

        After `REFUSED` refusals in a row one is trained all the same.
        """
        reason = self.refusal(sizes, trained) if self._refused < REFUSED else None
        self._refused = 0 if reason is None else self._refused + 1
        return reason

    def refusal(self, sizes: Sizes, trained: Iterable[Trial]) -> str | None:
        """Say why a candidate of these `sizes` is too far to be trained, or return None.

        It is if `CLOSER` plans that were trained, and are no larger in any exact objective, are
        `FAR` times closer to the unshared model.
        """
        distance = sizes.get("distance")
        if distance is None:
            return None
        closer = [
            trial.sizes["distance"]
            for trial in trained
            if FAR * trial.sizes.get("distance", distance) < distance
            and all(trial.sizes[name] <= sizes[name] for name in self._exact)
        ]
        if len(closer) < CLOSER:
            return None
        return (
            f"untrained it is {distance:.3g} from the unshared model, and {len(closer)} plans no "
            f"larger are {median(closer):.3g}"
        )
