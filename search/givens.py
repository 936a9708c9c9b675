"""List candidates that no sampler proposes: anchors, given and solved plans, earlier fronts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.results.reading.trial import NO_DRAW, Draw, Trial
from sharetune.search.config import StudyConfig
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.plan import SharingPlan, StackShape
from sharetune.spaces.recipe import Candidate


@dataclass(frozen=True)
class Given:
    """A candidate to admit, with its `origin` if no sampler drew it, else with its `draw`."""

    candidate: Candidate
    origin: dict[str, Any] = field(default_factory=dict)
    draw: Draw = NO_DRAW

    def attributes(self) -> dict[str, Any]:
        """Return the attributes that its trial stores of it."""
        return {record.CANDIDATE: self.candidate.written(), **self.origin}


def missing_givens(
    config: StudyConfig,
    stacks: Mapping[str, StackShape],
    noted: Mapping[str, Any],
    history: Sequence[Trial],
) -> list[Given]:
    """Return the candidates to train before any draw that are not in `history` yet.

    `noted` are the study's attributes, of which solved plans and earlier fronts are read.
    """
    present = [trial.origin for trial in history if not trial.is_interrupted]
    return [given for given in _givens(config, stacks, noted) if given.origin not in present]


def interrupted_draws(history: Sequence[Trial], known: Mapping[str, int]) -> list[Given]:
    """Return drawn candidates whose training a killed search left unfinished and none repeated."""
    left = {
        trial.candidate.key(): Given(trial.candidate, draw=trial.draw)
        for trial in history
        if trial.is_interrupted and trial.finalist is None and not trial.origin
    }
    return [given for key, given in left.items() if key not in known]


def _givens(
    config: StudyConfig, stacks: Mapping[str, StackShape], noted: Mapping[str, Any]
) -> Iterator[Given]:
    recipe = config.space.reference_recipe().model_copy(update={"kept_top": 0})
    for name in config.anchors:
        candidate = Candidate(plan=ANCHORS[name](stacks), recipe=recipe).bound(stacks)
        yield Given(candidate, {record.ANCHOR: name})
    compression = config.space.reference_compression()
    solved = map(SharingPlan.model_validate, noted.get(record.SOLVED, ()))
    for kind, plans in (("plan", config.plans), ("solved", solved)):
        for i, plan in enumerate(plans):
            given = Candidate(plan=plan, compression=compression, recipe=recipe)
            yield Given(given.bound(stacks), {record.ANCHOR: f"{kind}-{i}"})
    for found in noted.get(record.EARLIER, ()):
        origin = {key: found[key] for key in ("study", "number")}
        candidate = Candidate.model_validate(found["candidate"])
        yield Given(candidate, {record.EARLIER: origin})
