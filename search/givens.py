"""Candidates that no sampler proposes: anchors, plans of the study file, earlier fronts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.results.reading.trial import NO_DRAW, Draw, Trial
from sharetune.search.config import StudyConfig
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.plan import StackShape
from sharetune.spaces.recipe import Candidate


@dataclass(frozen=True)
class Given:
    """A candidate to be judged: its `origin` if it was not drawn, else its draw."""

    candidate: Candidate
    origin: dict[str, Any] = field(default_factory=dict)
    draw: Draw = NO_DRAW

    def attributes(self) -> dict[str, Any]:
        """Return what its trial stores of it."""
        return {record.CANDIDATE: self.candidate.written(), **self.origin}


def missing_givens(
    config: StudyConfig,
    stacks: Mapping[str, StackShape],
    earlier: Sequence[Mapping[str, Any]],
    history: Sequence[Trial],
) -> list[Given]:
    """Return what is to be trained before any draw and is not in `history` yet."""
    present = [trial.origin for trial in history if not trial.is_interrupted]
    return [given for given in _givens(config, stacks, earlier) if given.origin not in present]


def interrupted_draws(history: Sequence[Trial], known: Mapping[str, int]) -> list[Given]:
    """Return drawn candidates whose training a killed search left behind and none repeated."""
    left = {
        trial.candidate.key(): Given(trial.candidate, draw=trial.draw)
        for trial in history
        if trial.is_interrupted and trial.finalist is None and not trial.origin
    }
    return [given for key, given in left.items() if key not in known]


def _givens(
    config: StudyConfig, stacks: Mapping[str, StackShape], earlier: Sequence[Mapping[str, Any]]
) -> Iterator[Given]:
    recipe = config.space.reference_recipe().model_copy(update={"kept_top": 0})
    for name in config.anchors:
        candidate = Candidate(plan=ANCHORS[name](stacks), recipe=recipe).bound(stacks)
        yield Given(candidate, {record.ANCHOR: name})
    compression = config.space.reference_compression()
    for i, plan in enumerate(config.plans):
        given = Candidate(plan=plan, compression=compression, recipe=recipe)
        yield Given(given.bound(stacks), {record.ANCHOR: f"plan-{i}"})
    for found in earlier:
        origin = {key: found[key] for key in ("study", "number")}
        candidate = Candidate.model_validate(found["candidate"])
        yield Given(candidate, {record.EARLIER: origin})
