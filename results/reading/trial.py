"""One trial of a study, typed, as the storage keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from sharetune.results.reading import attributes as names
from sharetune.spaces.evaluator import Metrics, PartSums, Sizes
from sharetune.spaces.recipe import Candidate


@dataclass(frozen=True)
class Draw:
    """A sampler's answer: parameters with the ranges they come from, and its own notes."""

    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)


NO_DRAW = Draw()
"""The draw of a trial that no sampler proposed."""


@dataclass(frozen=True)
class Trial:
    """A trial as it was stored; `results/reading/attributes.py` explains each field.

    What is missing is None or empty. `written` is the candidate as plain data.
    """

    number: int
    state: TrialState
    written: dict[str, Any]
    values: tuple[float, ...] | None = None
    draw: Draw = NO_DRAW
    anchor: str | None = None
    earlier: dict[str, Any] | None = None
    rival: dict[str, Any] | None = None
    finalist: int | None = None
    started: bool = False
    same_as: int | None = None
    reason: str | None = None
    error: dict[str, str] | None = None
    sizes: Sizes = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] | None = None
    confusion: list[list[int]] | dict[str, Any] | None = None
    part_sums: PartSums | None = None
    curve: list[list[float]] | None = None
    rungs: Sequence[Metrics] | None = None
    test: dict[str, Any] | None = None
    by_format: dict[str, Metrics] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    circumstances: dict[str, Any] | None = None
    ran: dict[str, Any] = field(default_factory=dict)
    began: datetime | None = None
    ended: datetime | None = None

    @classmethod
    def of(cls, frozen: FrozenTrial) -> "Trial":
        """Read a trial of an Optuna study."""
        stored = frozen.user_attrs
        return cls(
            number=frozen.number,
            state=frozen.state,
            written=_mapping(stored, names.CANDIDATE),
            values=None if frozen.values is None else tuple(frozen.values),
            draw=Draw(frozen.params, frozen.distributions, frozen.system_attrs),
            anchor=stored.get(names.ANCHOR),
            earlier=_mapping(stored, names.EARLIER) or None,
            rival=_mapping(stored, names.RIVAL) or None,
            finalist=stored.get(names.FINALIST),
            started=bool(stored.get(names.STARTED)),
            same_as=stored.get(names.SAME_AS),
            reason=stored.get(names.REASON),
            error=_mapping(stored, names.ERROR) or None,
            sizes=_mapping(stored, names.FACTS),
            metrics=_mapping(stored, names.METRICS),
            per_class=stored.get(names.PER_CLASS),
            confusion=stored.get(names.CONFUSION),
            part_sums=_mapping(stored, names.PART_SUMS) or None,
            curve=stored.get(names.CURVE),
            rungs=stored.get(names.RUNGS),
            test=stored.get(names.TEST),
            by_format=stored.get(names.BY_FORMAT),
            seconds=_mapping(stored, names.SECONDS),
            circumstances=stored.get(names.CIRCUMSTANCES),
            ran=_mapping(stored, names.RAN),
            began=frozen.datetime_start,
            ended=frozen.datetime_complete,
        )

    @cached_property
    def candidate(self) -> Candidate:
        """The candidate; raises :class:`SharetuneError` if this version cannot read it."""
        return Candidate.model_validate(self.written)

    @property
    def origin(self) -> dict[str, Any]:
        """Where a candidate that no sampler drew comes from; empty for one that was drawn."""
        found = {
            names.ANCHOR: self.anchor,
            names.EARLIER: self.earlier,
            names.RIVAL: self.rival,
        }
        return {key: value for key, value in found.items() if value is not None}

    @property
    def is_complete(self) -> bool:
        """Whether it was trained and measured to its end."""
        return self.state is TrialState.COMPLETE

    @property
    def is_interrupted(self) -> bool:
        """Whether it ended because its search did; its candidate is trained again."""
        return self.reason == names.INTERRUPTED

    def interrupted(self) -> "Trial":
        """Return a trial that runs no more as it is to be ended, others as they are."""
        if self.state is not TrialState.RUNNING:
            return self
        return replace(self, state=TrialState.FAIL, reason=names.INTERRUPTED)

    def slim(self) -> "Trial":
        """Return the trial without what only a report reads, to be kept in memory."""
        return replace(
            self,
            draw=NO_DRAW,
            per_class=None,
            confusion=None,
            part_sums=None,
            curve=None,
            rungs=None,
            test=None,
            circumstances=None,
            error=None,
        )


def _mapping(stored: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = stored.get(key)
    return dict(value) if isinstance(value, Mapping) else {}
