"""Decide whether a candidate is trained, before any worker sees it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.results.reading.trial import Trial
from sharetune.search.distances import Distances
from sharetune.search.latency_limit import LatencyLimit
from sharetune.search.ledger import Ledger
from sharetune.search.sections import Budget
from sharetune.search.study.writer import StudyWriter
from sharetune.spaces.errors import PlanError
from sharetune.spaces.evaluator import Evaluator, Sizes
from sharetune.spaces.recipe import Candidate

KEPT_SIZES = 1024
"""Candidates whose sizes are cached: the sampler asks for many before the search takes one."""


@dataclass(frozen=True)
class Train:
    """The verdict to train a candidate; its `sizes` are exact already."""

    sizes: Sizes


@dataclass(frozen=True)
class Answer:
    """The verdict that no training is needed.

    `attributes` are the trial's further ones, `values` its objectives if it is complete.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Wait:
    """The verdict to wait until the equal trial `twin` has ended, or until no worker is busy."""

    twin: int | None = None


Verdict = Train | Answer | Wait


class Admission:
    """The rules by which candidates are admitted: none trains twice, or over a hard limit."""

    def __init__(
        self,
        budget: Budget,
        evaluator: Evaluator,
        ledger: Ledger,
        writer: StudyWriter,
        latency: LatencyLimit,
        distances: Distances,
    ) -> None:
        self.budget, self.evaluator, self.ledger = budget, evaluator, ledger
        self.writer, self.latency, self.distances = writer, latency, distances
        self._sizes = lru_cache(maxsize=KEPT_SIZES)(evaluator.sizes)

    def weigh(self, candidate: Candidate) -> Sizes | None:
        """Return the candidate's sizes, or None where it may not be trained."""
        try:
            sizes = self._sizes(candidate)
        except PlanError:
            return None
        if self._over_budget(sizes):
            return None
        sizes = sizes | self.distances.known(candidate)
        return None if self.distances.refusal(sizes, self.ledger.complete) else sizes

    def measure(self, candidate: Candidate) -> float | None:
        """Return the distance of the candidate's plan, untrained; None where none is measured."""
        if self.distances.may_measure:
            self.distances.measure(candidate)
        return self.distances.known(candidate).get("distance")

    def judge(
        self, candidate: Candidate, running: Collection[int], *, busy: bool, given: bool = False
    ) -> Verdict:
        """Decide on a candidate while the trials `running` run; `busy` if any of them has begun.

        One that was `given`, not drawn, is trained however far it is from the unshared model.
        """
        known = self.ledger.known.get(candidate.key())
        if known is not None:
            return Wait(known) if known in running else repeat_of(self.writer.trial(known))
        try:
            sizes = self._sizes(candidate)
        except PlanError as error:
            return Answer({record.REASON: error.message})
        refused = self._over_budget(sizes)
        if refused is None and self.latency.needs(candidate):
            if busy:
                return Wait()
            self.latency.measure(candidate)
        refused = refused or self.latency.refusal(candidate)
        if refused is None:
            self.distances.measure(candidate)
            sizes = sizes | self.distances.known(candidate)
            refused = None if given else self.distances.judged(sizes, self.ledger.complete)
        if refused is None:
            return Train(sizes)
        facts = sizes | self.latency.sizes(candidate)
        return Answer({record.FACTS: facts, record.REASON: refused})

    def _over_budget(self, sizes: Sizes) -> str | None:
        for name, limit in self.budget.limits().items():
            if sizes[name] > limit:
                return f"over budget: {sizes[name]:,.0f} {name}, at most {limit:,.0f} allowed"
        return None


def repeat_of(twin: Trial) -> Answer:
    """Return the answer that an equal trial, which has ended, gives to its repeats."""
    found = {
        record.FACTS: twin.sizes or None,
        record.METRICS: twin.metrics or None,
        record.PER_CLASS: twin.per_class,
        record.CONFUSION: twin.confusion,
        record.PART_SUMS: twin.part_sums,
        record.REASON: twin.reason,
    }
    known = {key: value for key, value in found.items() if value is not None}
    return Answer(known | {record.SAME_AS: twin.number}, twin.values)
