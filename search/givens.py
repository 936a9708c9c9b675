"""List candidates that no sampler proposes: anchors, given and solved plans, earlier fronts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.results.reading.trial import NO_DRAW, Draw, Trial
from sharetune.search.config import StudyConfig
from sharetune.search.rivals import rival_origin
from sharetune.spaces.anchors import ANCHORS, UNSHARED
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.stack_shape import StackShape


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
    compression = config.space.reference_compression()
    solved = map(SharingPlan.model_validate, noted.get(record.SOLVED, ()))
    given = {"solved": solved, "plan": config.plans}
    candidates = [
        (f"{kind}-{i}", Candidate(plan=plan, compression=compression, recipe=recipe))
        for kind, plans in given.items()
        for i, plan in enumerate(plans)
    ]
    anchors = [
        (name, Candidate(plan=_anchor(name, stacks, noted), recipe=recipe))
        for name in config.anchors
    ]
    for name, candidate in sorted([*anchors, *candidates], key=_turn):
        yield Given(candidate.bound(stacks), {record.ANCHOR: name})
    for found in noted.get(record.EARLIER, ()):
        origin = {key: found[key] for key in ("study", "number")}
        candidate = Candidate.model_validate(found["candidate"])
        yield Given(candidate, {record.EARLIER: origin})
    for rival in noted.get(record.RIVALS, {}).get("found", ()):
        yield Given(Candidate.model_validate(rival["candidate"]), rival_origin(rival))


def _turn(named: tuple[str, Candidate]) -> int:
    """Return whose turn it is: the unshared model, solved plans, other anchors, given plans."""
    name, _ = named
    if name == UNSHARED:
        return 0
    if name in ANCHORS:
        return 2
    return 1 if name.startswith("solved-") else 3


def _anchor(name: str, stacks: Mapping[str, StackShape], noted: Mapping[str, Any]) -> SharingPlan:
    chosen = noted.get(record.ANCHOR_PLANS, {}).get(name)
    return ANCHORS[name](stacks) if chosen is None else SharingPlan.model_validate(chosen)
