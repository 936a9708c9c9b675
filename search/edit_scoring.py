"""Score single edits, alone and untrained, on all workers, into a run folder.

Each score is written as soon as it is known, so that a killed scoring goes on where it was.
"""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from sharetune.results.formatting import plural
from sharetune.search.config import StudyConfig
from sharetune.search.progress_bars import Steps, stderr_console
from sharetune.search.solved import depends, refuse_other
from sharetune.search.untrained import Untrained
from sharetune.search.workers import in_process
from sharetune.spaces.errors import PlanError, SharetuneError
from sharetune.spaces.evaluator import (
    Evaluator,
    Exchange,
    Exchanged,
    PlanScore,
    Sizes,
    Untried,
)
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import Edit, plan_of
from sharetune.spaces.planning.grid import grid, grid_of
from sharetune.spaces.planning.rivals import RIVALS
from sharetune.spaces.planning.score_file import ScoreFile, ScoresHeader, StoredScores
from sharetune.spaces.planning.solving import Scored
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder
from sharetune.spaces.stack_shape import lacking_parts

SAVINGS = ("parameters", "bytes", "flops")
"""Exact sizes that an edit can save."""

FIRST = {"drop": 0, "narrow": 1}
"""Places of the kinds that are scored before all others: every rival and several anchors need
drops, and most plans that win on a pretrained model narrow."""


@dataclass(frozen=True)
class ScoringRun:
    """A study that is scored, on workers that are connected: `evaluator` in the folder `run`."""

    config: StudyConfig
    run: RunFolder
    evaluator: Evaluator

    @property
    def file(self) -> ScoreFile:
        """The file of scores."""
        return ScoreFile(self.run.scores)

    def candidate(self, plan: SharingPlan) -> Candidate:
        """Return `plan` with the recipe by which examples are cut and FLOPs are counted."""
        return Candidate(plan=plan, recipe=self.config.space.reference_recipe())

    def exchanged(self, exchange: Exchange) -> Exchanged:
        """Return the model with two layers exchanged, as :meth:`candidate` does a plan."""
        return Exchanged(exchange, self.config.space.reference_recipe())

    def scores(self, candidates: Sequence[Untried]) -> Generator[tuple[int, Untrained], None, None]:
        """Score candidates, in this process or on all workers."""
        if self.config.executor == "local":
            return in_process.scores(self.evaluator, candidates, self.config.resources.cpu)
        from sharetune.search.workers import ray_scores

        return ray_scores.scores(self.evaluator, candidates, self.config, self.run)

    def unshared(self) -> Sizes:
        """Return the unshared model's sizes."""
        return self.evaluator.sizes(self.candidate(SharingPlan()))

    def refuse_other(self, header: ScoresHeader) -> None:
        """Raise :class:`RunError` if the stored scores are not of this model, data and space."""
        refuse_other(header, self.config, self.run, self.evaluator)


def opened(scoring: ScoringRun, unshared: Sizes) -> StoredScores:
    """Open the file of scores, or begin it."""
    file = scoring.file
    if not file.exists:
        config = scoring.config.model_dump(mode="json")
        lacking = lacking_parts(scoring.evaluator.stacks)
        of = depends(scoring.config, scoring.evaluator)
        file.begin(ScoresHeader(of, unshared, config, lacking))
    stored = file.read()
    scoring.refuse_other(stored.header)
    file.cut_partial_line()
    return stored


@dataclass(frozen=True)
class Wanted:
    """An edit to score: what it `saved`, by name, and whether it is `outside` the space."""

    saved: Mapping[str, float]
    outside: bool


def wanted_edits(scoring: ScoringRun, unshared: Sizes) -> dict[Edit, Wanted]:
    """Count what each edit to score saves; those that save nothing are left out.

    They are those that the space allows and those that rivals are made of, the most useful first,
    as time may not suffice for all.
    """
    evaluator, settings = scoring.evaluator, scoring.config.scores
    stacks, widths = evaluator.stacks, evaluator.widths
    inside = grid_of(scoring.config.space, stacks, widths=widths)
    kinds = None if settings is None else settings.kinds
    others = () if settings is None else tuple(RIVALS) if kinds is None else kinds
    edits = dict.fromkeys(inside, False)
    edits = dict.fromkeys(grid(stacks, widths=widths, kinds=others), True) | edits
    found = {}
    for edit in sorted(edits, key=lambda edit: (FIRST.get(edit.kind, len(FIRST)), edits[edit])):
        if kinds is None or edit.kind in kinds:
            saved = _saved(scoring, edit, unshared)
            if saved is not None and max(saved.values()) > 0:
                found[edit] = Wanted(saved, edits[edit])
    return found


def _saved(scoring: ScoringRun, edit: Edit, unshared: Sizes) -> dict[str, float] | None:
    """Return what an edit saves, by name; None for a form that this model cannot have."""
    try:
        sizes = scoring.evaluator.sizes(scoring.candidate(plan_of([edit])))
    except PlanError:
        return None
    return {name: unshared[name] - sizes[name] for name in SAVINGS}


class Allowance(NamedTuple):
    """How many `scores` may be taken, those known already among them, and for how many seconds."""

    scores: float = inf
    seconds: float = inf


Allowed = Callable[[PlanScore], Allowance]
"""Takes the unshared model's score; returns what scoring may cost."""


def score_all(
    scoring: ScoringRun,
    stored: StoredScores,
    edits: Mapping[Edit, Wanted],
    allowed: Allowed = lambda _: Allowance(),
) -> None:
    """Score the edits that are not stored, as far as `allowed`; time counts from the first score.

    Those that start from the same weights are scored once. The unshared model comes first, for
    its loss.
    """
    groups: dict[SharingPlan, list[Edit]] = {}
    for edit in edits:
        groups.setdefault(plan_of([edit.untrained()]), []).append(edit)
    left = {plan: [e for e in own if not stored.is_known(e)] for plan, own in groups.items()}
    left = {plan: own for plan, own in left.items() if own}
    taken, began = len(groups) - len(left), inf
    kinds = f"{plural(len(edits), 'edit')} to score, in {plural(len(groups), 'group')}"
    stderr_console().print(f"{kinds}, each of which starts from the same weights", markup=False)
    bar = Steps("groups of edits scored", len(groups), taken)
    unshared = stored.plans.get(SharingPlan())
    members = [*([] if unshared else [(SharingPlan(), [])]), *left.items()]
    candidates = [scoring.candidate(plan) for plan, _ in members]
    with bar, closing(scoring.scores(candidates)) as scores:
        for number, found in scores:
            began = min(began, time.monotonic())
            plan, own = members[number]
            _write(scoring.file, plan, {edit: edits[edit] for edit in own}, found)
            if own:
                taken += 1
                bar.advance()
            elif isinstance(found, PlanScore):
                unshared = found
            if unshared is not None:
                most, seconds = allowed(unshared)
                if most < bar.total:
                    bar.limit(int(most), "scoring may cost no more; scoring.seconds allows more")
                if taken >= most or time.monotonic() - began > seconds:
                    return


def score_exchanges(scoring: ScoringRun, stored: StoredScores, edits: Iterable[Edit]) -> None:
    """Score the layers of each pair that is tied in each other's place, where they are alike."""
    pairs = (edit for edit in edits if edit.kind == "tie" and len(edit.layers) == 2)
    every = dict.fromkeys(Exchange(edit.stack, (edit.layers[0], edit.layers[1])) for edit in pairs)
    left = [exchange for exchange in every if exchange not in stored.exchanges]
    with Steps("exchanging layers", len(every), len(every) - len(left)) as bar:
        for number, found in scoring.scores([scoring.exchanged(each) for each in left]):
            if isinstance(found, PlanScore):
                scoring.file.add_exchange(left[number], found)
            elif not isinstance(found, PlanError):
                raise found
            bar.advance()


def _write(
    file: ScoreFile, plan: SharingPlan, own: Mapping[Edit, Wanted], found: Untrained
) -> None:
    """Write the score of all edits that make this plan; of the unshared model, its own."""
    if isinstance(found, SharetuneError) and not (own and isinstance(found, PlanError)):
        raise found
    if isinstance(found, PlanScore) and not own:
        file.add_plan(plan, found)
    for edit, wanted in own.items():
        if isinstance(found, PlanScore):
            scored = Scored(edit, found.distance, wanted.saved)
            file.add_score(scored, found.loss, outside=wanted.outside)
        else:
            file.add_refusal(edit, found.message)
