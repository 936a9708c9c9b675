"""Score every edit that a study's space allows, alone and untrained, into its run folder.

Each score is written as soon as it is known, so that a killed scoring goes on where it was.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sharetune.search.config import StudyConfig, validate
from sharetune.search.latency_limit import measured
from sharetune.search.live import Live
from sharetune.search.run import cluster
from sharetune.search.signals import stopped_at_once
from sharetune.search.solved import depends, refuse_other
from sharetune.search.starting import held_for_scoring, real_evaluator
from sharetune.search.study.writer import one_error
from sharetune.search.workers import in_process
from sharetune.search.workers.attempt import Untrained
from sharetune.spaces.errors import ConfigError, PlanError, SharetuneError
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
from sharetune.spaces.planning.exchange import Measurement, improve
from sharetune.spaces.planning.grid import grid_of
from sharetune.spaces.planning.score_file import ScoreFile, ScoresHeader, StoredScores, Timed
from sharetune.spaces.planning.solving import Scored, Solution
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder

UNMEASURED = Live(metric=dict)
"""Functions of a study whose models are compared with the unshared one, and not measured."""

SAVINGS = ("parameters", "bytes", "flops")
"""Exact sizes that an edit can save."""


@dataclass(frozen=True)
class Scoring:
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

    def scores(self, candidates: Sequence[Untried]) -> Iterator[tuple[int, Untrained]]:
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


def score_study(
    config: StudyConfig,
    *,
    out: Path,
    address: str | None = None,
    latency: bool = False,
    evaluator: Evaluator | None = None,
) -> StoredScores:
    """Score all edits of a study into the run folder `out`, and return them.

    Those that the folder has already are not scored again. `address` joins a Ray cluster; with
    `latency` edits are timed as well, by the study's protocol, once all are scored;
    `evaluator` replaces the model and its task, for tests. Raises :class:`SharetuneError` for a
    user's mistake, and ``KeyboardInterrupt`` on Ctrl-C or SIGTERM.
    """
    with _scoring(config, out, address, evaluator) as scoring:
        unshared = scoring.unshared()
        stored = _opened(scoring, unshared)
        edits = _saving(scoring, unshared)
        if not edits:
            raise ConfigError(
                "no edit that the space allows makes the model smaller",
                "widen space.plan; without it every kind of edit is tried",
            )
        _score_all(scoring, stored, edits)
        _score_exchanges(scoring, stored, edits)
        found = scoring.file.read()
        if latency:
            _time_all(scoring, found)
    if not found.scored:
        raise PlanError(*_first_refusal(found))
    return found


def improved(
    start: Solution, stored: StoredScores, needs: Mapping[str, float], count: int, out: Path
) -> list[Measurement]:
    """Measure a solved plan, and at most `count` in all with edits exchanged; see :func:`improve`.

    This happens in this process. Plans that the run folder `out` has measured before are not
    measured again.
    """
    config = validate(dict(stored.header.config), str(out))
    config = config.model_copy(update={"executor": "local"})
    scored = list(stored.scored.values())
    with _scoring(config, out, None, None) as scoring, stopped_at_once(), _bar() as bar:
        scoring.refuse_other(stored.header)
        task = bar.add_task("measuring plans", total=count)

        def measure(plan: SharingPlan) -> float:
            if plan not in stored.plans:
                ((_, found),) = scoring.scores([scoring.candidate(plan)])
                if isinstance(found, SharetuneError):
                    raise found
                scoring.file.add_plan(plan, found)
                stored.plans[plan] = found
            bar.advance(task)
            return stored.plans[plan].distance

        return improve(start, scored, needs, measure, measurements=count)


@contextmanager
def _scoring(
    config: StudyConfig, out: Path, address: str | None, evaluator: Evaluator | None
) -> Iterator[Scoring]:
    """Hold the run folder, connect the workers and prepare the model and its data."""
    run = RunFolder(out.resolve())
    with (
        one_error(run.path),
        cluster(config, address) as connected,
        held_for_scoring(config, run),
    ):
        if connected is not None and address is not None:
            connected.result()
        prepared = evaluator or real_evaluator(config, run, UNMEASURED)
        config.space.check(dict(prepared.stacks))
        if connected is not None:
            connected.result()
        yield Scoring(config, run, prepared)


def _opened(scoring: Scoring, unshared: Sizes) -> StoredScores:
    """Open the file of scores, or begin it."""
    file = scoring.file
    if not file.exists:
        config = scoring.config.model_dump(mode="json")
        file.begin(ScoresHeader(depends(scoring.config, scoring.evaluator), unshared, config))
    stored = file.read()
    scoring.refuse_other(stored.header)
    file.cut_partial_line()
    return stored


def _saving(scoring: Scoring, unshared: Sizes) -> dict[Edit, dict[str, float]]:
    """Count what each edit of the grid saves; those that save nothing are left out."""
    evaluator = scoring.evaluator
    found = {}
    for edit in grid_of(scoring.config.space, evaluator.stacks, widths=evaluator.widths):
        try:
            sizes = evaluator.sizes(scoring.candidate(plan_of([edit])))
        except PlanError:  # forms that this model cannot have
            continue
        saved = {name: unshared[name] - sizes[name] for name in SAVINGS}
        if max(saved.values()) > 0:
            found[edit] = saved
    return found


def _score_all(
    scoring: Scoring, stored: StoredScores, edits: Mapping[Edit, Mapping[str, float]]
) -> None:
    """Score the edits that are not stored; those that start from the same weights only once.

    The unshared model comes first, for its loss.
    """
    file, plans = scoring.file, [] if SharingPlan() in stored.plans else [SharingPlan()]
    left = [edit for edit in edits if not stored.is_known(edit)]
    groups: dict[SharingPlan, list[Edit]] = {plan: [] for plan in plans}
    for edit in left:
        groups.setdefault(plan_of([edit.untrained()]), []).append(edit)
    members = list(groups.items())
    with _bar() as bar:
        task = bar.add_task("scoring edits", total=len(edits), completed=len(edits) - len(left))
        for number, found in scoring.scores([scoring.candidate(plan) for plan in groups]):
            plan, own = members[number]
            _write(file, plan, {edit: edits[edit] for edit in own}, found)
            bar.advance(task, len(own))


def _score_exchanges(scoring: Scoring, stored: StoredScores, edits: Iterable[Edit]) -> None:
    """Score the layers of each pair that is tied in each other's place, where they are alike."""
    pairs = (edit for edit in edits if edit.kind == "tie" and len(edit.layers) == 2)
    every = dict.fromkeys(Exchange(edit.stack, (edit.layers[0], edit.layers[1])) for edit in pairs)
    left = [exchange for exchange in every if exchange not in stored.exchanges]
    with _bar() as bar:
        task = bar.add_task("exchanging layers", total=len(every), completed=len(every) - len(left))
        for number, found in scoring.scores([scoring.exchanged(each) for each in left]):
            if isinstance(found, PlanScore):
                scoring.file.add_exchange(left[number], found)
            elif not isinstance(found, PlanError):
                raise found
            bar.advance(task)


def _time_all(scoring: Scoring, stored: StoredScores) -> None:
    """Time the edits in this process, one of those with equal shapes for all of them."""
    config = scoring.config
    if not config.latency.rounds:
        raise ConfigError("latency.rounds is 0: nothing is timed", "--set latency.rounds=10")
    alike: dict[str, list[Edit]] = {}
    for key, one in stored.scored.items():
        if key not in stored.latency:
            alike.setdefault(_shape_key(one.edit, scoring.evaluator), []).append(one.edit)
    with stopped_at_once(), _bar() as bar:
        task = bar.add_task("timing edits", total=len(alike))
        for first, *others in alike.values():
            candidate = scoring.candidate(plan_of([first]))
            found = measured(config, scoring.evaluator, candidate, candidate)
            timed = Timed(found["forms"]["stored"]["median_ms"], found["unshared_ms"])
            for edit in (first, *others):
                scoring.file.add_latency(edit, timed)
            bar.advance(task)


def _shape_key(edit: Edit, evaluator: Evaluator) -> str:
    """Return a key that is the same for edits after which a forward pass does the same work."""
    if not evaluator.stacks[edit.stack].is_uniform:
        return edit.key()
    form = edit.kind, edit.group.form.model_dump()
    return json.dumps([edit.stack, len(edit.layers), form, edit.group.parts])


def _write(
    file: ScoreFile, plan: SharingPlan, own: Mapping[Edit, Mapping[str, float]], found: Untrained
) -> None:
    """Write the score of all edits that make this plan; of the unshared model, its own."""
    if isinstance(found, SharetuneError) and not (own and isinstance(found, PlanError)):
        raise found
    if isinstance(found, PlanScore) and not own:
        file.add_plan(plan, found)
    for edit, saved in own.items():
        if isinstance(found, PlanScore):
            file.add_score(Scored(edit, found.distance, saved), found.loss)
        else:
            file.add_refusal(edit, found.message)


def _bar() -> Progress:
    """Return a progress bar on stderr that says how much time is left."""
    console = Console(stderr=True, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeRemainingColumn(), console=console)


def _first_refusal(found: StoredScores) -> tuple[str, str]:
    reason = next(iter(found.refused.values()))
    return f"no edit could be scored; the first: {reason}", "see that the model runs on the data"
