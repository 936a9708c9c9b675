"""Decides what is trained next and what is told to the study. Knows no Ray and no torch.

An executor asks :meth:`Driver.next` for jobs while workers are free, tells
:meth:`Driver.reached` what a job has come to at its rungs and hands outcomes to
:meth:`Driver.finish`; everything else follows.
"""

import copy
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from sharetune.results.reading import attributes as record
from sharetune.search.budget import Growth, Spending, spent
from sharetune.search.config import StudyConfig
from sharetune.search.early_stopping import Scheduler
from sharetune.search.finalists import Finals, Retraining, candidate_of
from sharetune.search.jobs import CHECKPOINTS, DISK_FULL, Job, Outcome, Trainee, missing_value
from sharetune.search.latency_limit import Timing
from sharetune.search.nondominated import Archive
from sharetune.search.samplers.base import Ask, Past, Setting, draw_of, make_sampler
from sharetune.search.study.writer import NO_DRAW, Draw, Store, disk_full, is_interrupted
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.errors import PlanError
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.spaces.plan import StackShape
from sharetune.spaces.recipe import Candidate

DRAWS_IN_VAIN = 100


@dataclass(frozen=True)
class Given:
    """A candidate that is not to be drawn: an anchor, a plan from the study file, a member of an
    earlier study's front, or one whose training was interrupted."""

    candidate: Candidate
    origin: dict[str, Any] = field(default_factory=dict)
    draw: Draw = NO_DRAW

    def attributes(self) -> dict[str, Any]:
        """What the trial's attributes say of it."""
        return {record.CANDIDATE: self.candidate.written(), **self.origin}


class Driver:
    """One search over one study.

    `facts` is what `trainee.prepare` returned, `shapes` the model's stacks. `circumstances` are
    noted beside the trainee's own. `workers` is how many jobs the executor runs at once.
    `tell_user` is called with every finished trial.

    Once the search is over and its last trial has ended, the finalists follow.
    """

    def __init__(
        self,
        config: StudyConfig,
        store: Store,
        trainee: Trainee,
        *,
        facts: dict[str, Any],
        shapes: dict[str, StackShape],
        run: Path,
        circumstances: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.store, self.trainee, self.run = config, store, trainee, run
        self.facts, self.shapes = facts, shapes
        self.circumstances = circumstances or {}
        self.running: dict[int, Job] = {}
        self.started = 0
        self.exhausted = False
        self.finished_at: list[float] = []
        self.tell_user: Callable[[FrozenTrial], None] = lambda trial: None
        objectives = tuple(OBJECTIVES[name] for name in config.objectives)
        self._sign = np.array([o.sign for o in objectives])
        self.scheduler = Scheduler(objectives, eta=config.early_stopping.eta)
        reference = store.attributes[record.REFERENCE]
        fast = not config.space.sized_by_building
        setting = Setting(objectives, config.seed, config.budget.trials, reference, fast)
        self.sampler = make_sampler(config.sampler, setting)
        self.spending = Spending(config.resources)
        self._growth = _growth(config, objectives, reference)
        self.finals = Finals(config.finalists, objectives)
        self.timing = Timing(config, store, trainee, facts)
        self.workers = 1
        self._ready: deque[Job] = deque()
        self._untimed: Given | None = None
        self._ended: str | None = None
        self._drawn = 0
        self._known: dict[str, int] = {}
        self._twins: dict[int, list[Given]] = defaultdict(list)
        self._exact: dict[int, dict[str, float]] = {}
        self._rungs: dict[int, list[dict[str, float]]] = {}
        self._complete: dict[int, FrozenTrial] = {}
        self._front = Archive(len(objectives))
        self._stored = _numbers_in(run / "trials")
        self._left: dict[str, int] = {}
        self._given = deque([*self._read_history(), *self._missing_givens()])

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing more will be started."""
        return not self.running and not self._may_start and not self._may_retrain

    @property
    def ended(self) -> str | None:
        """Why no more trials are started though the budget of trials is not used up."""
        if self.finals.is_planned:
            return self._ended
        if self.exhausted:
            return f"{DRAWS_IN_VAIN} draws in a row gave no new candidate"
        return spent(self.config.budget, self.spending, self._growth, self.retrainings_left)

    @property
    def cut_short(self) -> str | None:
        """Why finalists are left untrained, if any are."""
        return spent(self.config.budget, self.spending) if self.finals.left else None

    @property
    def searched(self) -> int:
        """Trials of the budget that have ended."""
        return self.started - sum(job.finalist is None for job in self.running.values())

    @property
    def retrainings_left(self) -> float:
        """About how many trainings, of the length of the search's, its finalists still take."""
        if self.config.finalists is None:
            return 0.0
        anchors = sum(t.user_attrs.get(record.ANCHOR) in ANCHORS for t in self._complete.values())
        members = sum(t.user_attrs.get(record.ANCHOR) not in ANCHORS for t in self.front())
        return self.finals.cost(members, anchors)

    @property
    def _may_retrain(self) -> bool:
        if self._may_start or not self._search_is_over:
            return False
        if not self.finals.is_planned:
            self._ended = self.ended
            anchors = [t for t in self.complete if record.ANCHOR in t.user_attrs]
            self.finals.plan(self.front(), anchors, self._known)
        return bool(self.finals.left) and self.cut_short is None

    @property
    def _search_is_over(self) -> bool:
        """Whether all that runs are retrainings."""
        return all(job.finalist is not None for job in self.running.values())

    @property
    def _may_start(self) -> bool:
        if self.finals.is_planned:
            return False
        return self.started < self.config.budget.trials and self.ended is None

    @property
    def complete(self) -> list[FrozenTrial]:
        """Completed trials, repeats left out, without what is only for the report."""
        return list(self._complete.values())

    def front(self) -> list[FrozenTrial]:
        """Completed trials that no other beats in every objective."""
        return [self._complete[number] for number in self._front.numbers]

    def next(self) -> Job | None:
        """A job to start now, or None if nothing is to be started."""
        self._make_ready()
        if self._ready:
            return self._ready.popleft()
        if self._may_retrain:
            return self._retrain(self.finals.left.popleft())
        return None

    def _make_ready(self) -> None:
        """Makes a job, if one may start. Where latency must be measured first, one for each worker
        as soon as none is busy, so that all of them wait but once."""
        wanted = self.workers if self.timing.is_on and not self.running else 1
        draws = 0
        while len(self._ready) < wanted and self._may_start:
            given, self._untimed = self._untimed, None
            if given is None and not self._given:
                draws += 1
            job = self._start(given or (self._given.popleft() if self._given else self._draw()))
            if job is not None:
                self._ready.append(job)
            elif self._untimed is not None:
                return
            elif draws >= DRAWS_IN_VAIN:
                self.exhausted = True

    def reached(self, job: Job, rung: int, metrics: dict[str, float]) -> bool:
        """Notes what `job` has come to at `rung`; whether it goes on."""
        before = [seen for seen in self._rungs[job.number] if seen["rung"] < rung]
        self._rungs[job.number] = [*before, {"rung": rung, **metrics}]  # a lost worker's come twice
        goes_on = self.scheduler.reached(job.number, rung, metrics | self._exact[job.number])
        return goes_on or rung < self.config.early_stopping.first_rung(job.number)

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Records how `job` ended, and the same for its repeats that waited for it.

        Raises :class:`RunError` if the disk is full, which every further job would find as well:
        this one is trained again when the search is resumed.
        """
        if outcome.reason == DISK_FULL:
            raise disk_full(self.run)
        del self.running[job.number]
        self.finished_at.append(time.monotonic())
        trial = self._record(job, outcome)
        self.spending.add(trial)
        if job.finalist is None:
            self._finish_searched(job, trial)
        else:
            self.finals.note(trial)
        self._forget_weights(job.number)
        self.tell_user(trial)

    def _finish_searched(self, job: Job, trial: FrozenTrial) -> None:
        if trial.state is TrialState.COMPLETE:
            self._note_complete(trial)
        self._tell_sampler(trial, job.candidate)
        twins = self._twins.pop(job.number, [])
        if trial.state is TrialState.FAIL:
            del self._known[job.candidate.key()]
            self._given.extend(twins)
        else:
            for given in twins:
                self._repeat(trial, given)

    def _record(self, job: Job, outcome: Outcome) -> FrozenTrial:
        """Tells the outcome with the job's rungs; without a value it is not complete."""
        rungs, exact = self._rungs.pop(job.number), self._exact.pop(job.number)
        found = outcome.found | ({record.RUNGS: rungs} if rungs else {})
        found[record.CIRCUMSTANCES] = self.circumstances | found.get(record.CIRCUMSTANCES, {})
        metrics = found.get(record.METRICS, {}) | exact
        fault = missing_value(metrics, self.config.objectives)
        if outcome.state == "complete" and fault is None:
            values = [float(metrics[name]) for name in self.config.objectives]
            return self.store.complete(job.number, values, found)
        reason = fault if outcome.state == "complete" else outcome.reason
        tell = self.store.fail if outcome.state == "failed" else self.store.prune
        return tell(job.number, replace(outcome, found=found, reason=reason))

    def _note_complete(self, trial: FrozenTrial) -> None:
        slim = copy.copy(trial)
        slim.user_attrs = {key: trial.user_attrs[key] for key in KEPT if key in trial.user_attrs}
        self._complete[trial.number] = slim
        self._front.add(trial.number, self._sign * np.array(trial.values))
        named = dict(zip(self.config.objectives, trial.values, strict=True))
        self.scheduler.finished(trial.number, named)
        if self._growth is not None:
            self._growth.add([kept.values for kept in self.front()])

    def _tell_sampler(self, trial: FrozenTrial, candidate: Candidate) -> None:
        values = None if trial.values is None else tuple(trial.values)
        expected = None
        if trial.state is TrialState.PRUNED and record.RUNGS in trial.user_attrs:
            expected = self.scheduler.expected(trial.number)
        exact = None if record.SAME_AS in trial.user_attrs else trial.user_attrs.get(record.FACTS)
        past = Past(trial.number, candidate, draw_of(trial), trial.state, exact, values, expected)
        self.sampler.note(past)

    def _draw(self) -> Given:
        is_known = self._known.__contains__
        ask = Ask(self.config.space, self.shapes, self._drawn, is_known, self._weigh)
        candidate, draw = self.sampler.draw(ask)
        return Given(candidate, draw=draw)

    def _weigh(self, candidate: Candidate) -> dict[str, float] | None:
        try:
            exact = self.trainee.inspect(candidate, self.facts)
        except PlanError:
            return None
        return None if self._over_budget(exact) else exact

    def _start(self, given: Given) -> Job | None:
        """A job for the candidate, or None where it could be answered without one."""
        self._drawn += 1
        known = self._known.get(given.candidate.key())
        if known is not None:
            if known in self.running:
                self._twins[known].append(given)
            else:
                self._repeat(self.store.trial(known), given)
            return None
        try:
            exact = self.trainee.inspect(given.candidate, self.facts)
        except PlanError as error:
            self._answer(given, {record.REASON: error.message})
            return None
        refused = self._over_budget(exact)
        if refused is None:
            if not self._is_timed(given):
                return None
            refused = self.timing.refusal(given.candidate)
        if refused is not None:
            facts = exact | self.timing.facts(given.candidate)
            self._answer(given, {record.FACTS: facts, record.REASON: refused})
            return None
        return self._run(given, exact)

    def _is_timed(self, given: Given) -> bool:
        """Whether the candidate's latency is known as far as it is limited. While a worker is busy
        it cannot be measured, and the candidate is put off."""
        if not self.timing.needs(given.candidate):
            return True
        if len(self.running) > len(self._ready):
            self._untimed = given
            self._drawn -= 1
            return False
        self.timing.measure(given.candidate)
        return True

    def _run(self, given: Given, exact: dict[str, float]) -> Job:
        attributes = given.attributes() | {record.FACTS: exact, record.STARTED: True}
        number = self.store.start(given.draw, attributes)
        rungs = self.config.early_stopping.rungs
        job = Job(number, given.candidate, self._folder(number), rungs)
        self._enter(job, exact)
        self.started += 1
        self._known[given.candidate.key()] = number
        running = Past(number, given.candidate, given.draw, TrialState.RUNNING, exact)
        self.sampler.note(running)
        return job

    def _retrain(self, run: Retraining) -> Job:
        """A job for a finalist on a further seed, which the sampler is not told of."""
        exact = self._complete[run.of].user_attrs[record.FACTS]
        told = {record.CANDIDATE: run.candidate.written(), record.FACTS: exact}
        number = self.store.start(NO_DRAW, told | {record.FINALIST: run.of})
        longer = 1.0 if self.config.finalists is None else self.config.finalists.longer
        job = Job(number, run.candidate, self._folder(number), finalist=run.of, longer=longer)
        self._enter(job, exact)
        return job

    def _enter(self, job: Job, exact: dict[str, float]) -> None:
        self.running[job.number] = job
        self._exact[job.number], self._rungs[job.number] = exact, []
        left = self._left.pop(job.candidate.key(), None)
        if left is not None:
            job.checkpoints.parent.mkdir(parents=True, exist_ok=True)
            (self._folder(left).parent / CHECKPOINTS).replace(job.checkpoints)

    def _folder(self, number: int) -> Path:
        return self.run / "trials" / str(number) / "model"

    def _answer(
        self, given: Given, attributes: dict[str, Any], values: list[float] | None = None
    ) -> None:
        """Records a trial that needs no worker."""
        trial = self.store.answer(given.draw, attributes | given.attributes(), values)
        self._tell_sampler(trial, given.candidate)

    def _repeat(self, twin: FrozenTrial, given: Given) -> None:
        """A trial that is told what an equal one found."""
        told = {key: twin.user_attrs[key] for key in REPEATED if key in twin.user_attrs}
        self._answer(given, told | {record.SAME_AS: twin.number}, twin.values)

    def _over_budget(self, exact: dict[str, float]) -> str | None:
        for name, limit in self.config.budget.limits().items():
            if exact[name] > limit:
                return f"over budget: {exact[name]:,.0f} {name}, at most {limit:,.0f} allowed"
        return None

    def _missing_givens(self) -> Iterable[Given]:
        trials = self.store.trials()
        present = [_origin(trial) for trial in trials if not is_interrupted(trial)]
        return [given for given in self._givens() if given.origin not in present]

    def _givens(self) -> Iterable[Given]:
        recipe = self.config.space.reference_recipe().model_copy(update={"kept_top": 0})
        for name in self.config.anchors:
            plan = ANCHORS[name](self.shapes)
            candidate = Candidate(plan=plan, recipe=recipe).bound(self.shapes)
            yield Given(candidate, {record.ANCHOR: name})
        compression = self.config.space.reference_compression()
        for i, plan in enumerate(self.config.plans):
            given = Candidate(plan=plan, compression=compression, recipe=recipe)
            yield Given(given.bound(self.shapes), {record.ANCHOR: f"plan-{i}"})
        for found in self.store.attributes.get(record.EARLIER, ()):
            origin = {key: found[key] for key in ("study", "number")}
            candidate = Candidate.model_validate(found["candidate"])
            yield Given(candidate, {record.EARLIER: origin})

    def _read_history(self) -> list[Given]:
        """Takes up what the study holds; returns drawn candidates whose training a dead driver
        left behind."""
        interrupted: dict[str, Given] = {}
        for trial in sorted(self.store.trials(), key=_when_ended):
            if record.FINALIST in trial.user_attrs:
                self._take_up_final(trial)
                continue
            self._drawn += 1
            written = candidate_of(trial)
            if is_interrupted(trial):
                self._note_left(trial.number, written)
                if not _origin(trial):
                    interrupted[written.key()] = Given(written, draw=draw_of(trial))
                continue
            if record.STARTED in trial.user_attrs:
                self._take_up(trial, written.key())
            self._tell_sampler(trial, written)
        return [given for key, given in interrupted.items() if key not in self._known]

    def _take_up_final(self, trial: FrozenTrial) -> None:
        if is_interrupted(trial):
            self._note_left(trial.number, candidate_of(trial))
        else:
            self.spending.add(trial)
            self.finals.note(trial)

    def _note_left(self, number: int, candidate: Candidate) -> None:
        if (self._folder(number).parent / CHECKPOINTS).is_dir():
            self._left[candidate.key()] = number

    def _take_up(self, trial: FrozenTrial, key: str) -> None:
        self.started += 1
        self.spending.add(trial)
        for reached in trial.user_attrs.get(record.RUNGS, ()):
            values = reached | trial.user_attrs[record.FACTS]
            self.scheduler.reached(trial.number, int(reached["rung"]), values)
        if trial.state is not TrialState.FAIL:
            self._known[key] = trial.number
        if trial.state is TrialState.COMPLETE:
            self._note_complete(trial)

    def _forget_weights(self, latest: int) -> None:
        """Removes what lies in the folders of trials that are neither on the front nor anchors."""
        self._stored.add(latest)
        in_use = {*self.running, *self._left.values()}
        for number in [n for n in self._stored if n not in in_use and not self._keeps(n)]:
            shutil.rmtree(self.run / "trials" / str(number), ignore_errors=True)
            self._stored.remove(number)

    def _keeps(self, number: int) -> bool:
        trial = self._complete.get(number)
        if trial is None:
            every = self.config.keep == "all"
            return self.config.keep != "none" and self.finals.keeps(number, every=every)
        if self.config.keep == "all" or record.ANCHOR in trial.user_attrs:
            return True
        return self.config.keep == "front" and number in self._front


def _growth(
    config: StudyConfig, objectives: tuple[Objective, ...], reference: dict[str, float]
) -> Growth | None:
    if config.budget.stagnation is None:
        return None
    point = [reference[objective.name] for objective in objectives]
    return Growth(objectives, point, config.budget.stagnation.window)


def _origin(trial: FrozenTrial) -> dict[str, Any]:
    """Where a candidate that was not drawn comes from."""
    return {key: trial.user_attrs[key] for key in ORIGINS if key in trial.user_attrs}


def _when_ended(trial: FrozenTrial) -> datetime:
    return trial.datetime_complete or datetime.max


def _numbers_in(folder: Path) -> set[int]:
    """Trials that left something in the folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return {int(path.name) for path in found if path.name.isdigit()}


REPEATED = (record.FACTS, record.METRICS, record.PER_CLASS, record.CONFUSION, record.REASON)
ORIGINS = (record.ANCHOR, record.EARLIER)
KEPT = (record.ANCHOR, record.CANDIDATE, record.FACTS, record.METRICS)
