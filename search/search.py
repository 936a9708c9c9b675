"""Decide what is trained next and what the study records. Knows no Ray and no torch.

An executor asks :meth:`Search.next` for jobs while workers are free, reports with
:meth:`Search.reached` the metrics of a job at its rungs, and hands outcomes to
:meth:`Search.finish`; everything else follows.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.trial import TrialState

from sharetune.results.reading import attributes as record
from sharetune.results.reading.trial import NO_DRAW, Trial
from sharetune.search.admission import Admission, Answer, Train, Wait, repeat_of
from sharetune.search.budget import spent
from sharetune.search.config import StudyConfig
from sharetune.search.distances import Distances
from sharetune.search.finalists import Retraining
from sharetune.search.givens import Given, interrupted_draws, missing_givens
from sharetune.search.latency_limit import LatencyLimit
from sharetune.search.ledger import Ledger
from sharetune.search.live import say_error
from sharetune.search.outcome import DISK_FULL, Outcome, missing_value, unreached
from sharetune.search.rivals import rival_origin, room_for, wanted_rivals
from sharetune.search.samplers.base import Ask, Setting, make_sampler
from sharetune.search.study.writer import StudyWriter, disk_full
from sharetune.search.weights import Weights
from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.errors import RunError
from sharetune.spaces.evaluator import Evaluator, Job, Metrics
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.spaces.pace import Pace
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder

DRAWS_IN_VAIN = 100
"""Draws in a row without a new candidate after which a space counts as exhausted."""


class Search:
    """One search over one study.

    `circumstances` are stored with each trial next to the evaluator's own. `workers` is how many
    jobs the executor runs at once; `on_finished` is called with every trial that was trained, and
    each of `callbacks` with every trial that ended, also untrained; `last_words` says an error with
    which the process ends. Once the search is over and its
    last trial has ended, the finalists follow.
    """

    def __init__(
        self,
        config: StudyConfig,
        writer: StudyWriter,
        evaluator: Evaluator,
        run: RunFolder,
        circumstances: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.writer, self.evaluator, self.run = config, writer, evaluator, run
        self.circumstances = circumstances or {}
        self.workers = 1
        self.pace: Pace | None = None
        self.on_finished: Callable[[Trial], None] = lambda trial: None
        self.callbacks: Sequence[Callable[[Trial], object]] = ()
        self.last_words: Callable[[RunError], None] = say_error
        self.running: dict[int, Job] = {}
        self.finished_at: list[float] = []
        self.exhausted = False
        self._trials: dict[int, Trial] = {}
        self._rungs: dict[int, list[Metrics]] = {}
        self._twins: dict[int, list[Given]] = defaultdict(list)
        self._ready: deque[Job] = deque()
        self._ended: str | None = None

        self.objectives = tuple(OBJECTIVES[name] for name in config.objectives)
        noted = writer.attributes
        self.ledger = _ledger(config, self.objectives, noted[record.REFERENCE])
        self.latency = LatencyLimit(config, writer, evaluator)
        distances = Distances(config, run, evaluator, noted, lambda: self.ledger.started)
        self.admission = Admission(
            config.budget, evaluator, self.ledger, writer, self.latency, distances
        )
        history = sorted((trial.interrupted() for trial in writer.trials()), key=_when_ended)
        for trial in history:
            self.ledger.add(trial)
        self.weights = Weights(run, self.ledger, config.keep, history)
        self._room = room_for(config.budget) if distances.is_on else 0
        self._rivals_at = noted.get(record.RIVALS, {}).get("trials")
        self._given = deque(interrupted_draws(history, self.ledger.known))
        self._given += missing_givens(config, evaluator.stacks, noted, history)

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing more will be started."""
        return not self.running and not self._may_start and not self._may_retrain

    @property
    def ended(self) -> str | None:
        """The reason why no more trials start before the budget of trials is used up, or None."""
        if self.ledger.finals.is_planned:
            return self._ended
        if self.exhausted:
            return f"{DRAWS_IN_VAIN} draws in a row gave no new candidate"
        ledger = self.ledger
        return spent(self.config.budget, ledger.spending, ledger.growth, ledger.retrainings_left)

    @property
    def cut_short(self) -> str | None:
        """The reason why finalists are left untrained, or None."""
        if not self.ledger.finals.left:
            return None
        return spent(self.config.budget, self.ledger.spending)

    @property
    def untried(self) -> list[str]:
        """Names of the anchors and given plans that no trial has begun with yet."""
        return [
            given.origin[record.ANCHOR] for given in self._given if record.ANCHOR in given.origin
        ]

    @property
    def searched(self) -> int:
        """Number of the budget's trials that have ended."""
        return self.ledger.started - sum(not job.final for job in self.running.values())

    @property
    def _may_start(self) -> bool:
        if self.ledger.finals.is_planned:
            return False
        return self.ledger.started < self.config.budget.trials and self.ended is None

    @property
    def _may_retrain(self) -> bool:
        if self._may_start or not all(job.final for job in self.running.values()):
            return False
        ledger = self.ledger
        if not ledger.finals.is_planned:
            self._ended = self.ended
            ledger.finals.plan(ledger.front, ledger.anchors, ledger.known)
        return bool(ledger.finals.left) and self.cut_short is None

    def next(self) -> Job | None:
        """Return a job to start now, or None if nothing is to be started."""
        self._make_ready()
        if self._ready:
            return self._ready.popleft()
        if self._may_retrain:
            return self._retrain(self.ledger.finals.left.popleft())
        return None

    def reached(self, job: Job, rung: int, metrics: Metrics) -> bool:
        """Note the metrics of `job` at `rung`; return whether it goes on."""
        # a retried job reports its rungs again; keep the newer
        before = [seen for seen in self._rungs[job.number] if seen["rung"] < rung]
        self._rungs[job.number] = [*before, {"rung": rung, **metrics}]
        return self.ledger.reached(self._trials[job.number], rung, metrics)

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Record how `job` ended, and the same for its repeats that waited for it.

        Raises :class:`RunError` if the disk is full, which every further job would meet as well:
        this one is trained again when the search is resumed.
        """
        if outcome.reason == DISK_FULL:
            raise disk_full(self.run.path)
        del self.running[job.number]
        self.finished_at.append(time.monotonic())
        trial = self._record(job, outcome)
        self.ledger.add(trial)
        self._answer_twins(trial)
        self.weights.tidy(job.number, self.running)
        self.on_finished(trial)
        self._call_back(trial)

    def _make_ready(self) -> None:
        """Make a job ready, if one may start.

        Where latency must be measured first, one for each worker is made as soon as none is busy,
        so that all of them wait only once.
        """
        wanted = self.workers if self.latency.is_on and not self.running else 1
        draws = 0
        while len(self._ready) < wanted and self._may_start:
            self._plan_rivals(self.ledger.started >= self.config.budget.trials - self._room)
            draws += not self._given
            given = self._given.popleft() if self._given else self._draw()
            verdict = self._judge(given)
            if isinstance(verdict, Train):
                self._ready.append(self._start(given, verdict))
            elif verdict == Wait():
                self._given.appendleft(given)
                return
            elif draws >= DRAWS_IN_VAIN:
                self._plan_rivals(True)
                self.exhausted = not self._given

    def _plan_rivals(self, due: bool) -> None:
        """Let the rivals of the front be trained in the last trials of the budget, once `due`."""
        trials = self.config.budget.trials
        if not due or not self._room or self._rivals_at == trials:
            return
        self._rivals_at = trials
        fronts, known = self.admission.distances.rivals(), self.ledger.known
        found = wanted_rivals(self.ledger.front, self.objectives, fronts, known, self._room)
        earlier = self.writer.attributes.get(record.RIVALS, {}).get("found", [])
        self.writer.note(record.RIVALS, {"trials": trials, "found": earlier + found})
        for rival in found:
            candidate = Candidate.model_validate(rival["candidate"])
            self._given.append(Given(candidate, rival_origin(rival)))

    def _judge(self, given: Given) -> Train | Answer | Wait:
        busy = len(self.running) > len(self._ready)
        verdict = self.admission.judge(
            given.candidate, self.running, busy=busy, given=bool(given.origin)
        )
        if isinstance(verdict, Answer):
            self._answer(given, verdict)
        elif isinstance(verdict, Wait) and verdict.twin is not None:
            self._twins[verdict.twin].append(given)
        return verdict

    def _draw(self) -> Given:
        drawn = self.ledger.drawn + sum(map(len, self._twins.values()))
        is_known = self.ledger.known.__contains__
        admission = self.admission
        ask = Ask(
            self.config.space,
            self.evaluator.stacks,
            drawn,
            is_known,
            admission.weigh,
            admission.measure if admission.distances.is_on else None,
        )
        candidate, draw = self.ledger.sampler.draw(ask)
        return Given(candidate, draw=draw)

    def _start(self, given: Given, verdict: Train) -> Job:
        attributes = given.attributes() | {record.FACTS: verdict.sizes, record.STARTED: True}
        trial = self.writer.start(given.draw, attributes)
        self.ledger.start(trial)
        rungs = self.config.early_stopping.rungs
        return self._enter(
            trial, Job(trial.number, given.candidate, self.run.trial(trial.number), rungs)
        )

    def _retrain(self, run: Retraining) -> Job:
        """Start a finalist's training on a further seed, which the sampler does not learn of."""
        of = self.ledger.find(run.of)
        assert of is not None and self.config.finalists is not None, "finalists are complete"
        attributes = {record.CANDIDATE: run.candidate.written(), record.FACTS: of.sizes}
        trial = self.writer.start(NO_DRAW, attributes | {record.FINALIST: run.of})
        longer = self.config.finalists.longer
        job = Job(
            trial.number, run.candidate, self.run.trial(trial.number), final=True, longer=longer
        )
        return self._enter(trial, job)

    def _enter(self, trial: Trial, job: Job) -> Job:
        self.running[job.number] = job
        self._trials[job.number], self._rungs[job.number] = trial, []
        self.weights.take_over(job)
        return job

    def _answer(self, given: Given, answer: Answer) -> None:
        """Record a trial that needs no worker."""
        attributes = answer.attributes | given.attributes()
        trial = self.writer.answer(given.draw, attributes, answer.values)
        self.ledger.add(trial)
        self._call_back(trial)

    def _call_back(self, trial: Trial) -> None:
        for callback in self.callbacks:
            callback(trial)

    def _answer_twins(self, trial: Trial) -> None:
        """Answer the repeats of a trial that has ended; after a fault they are tried themselves."""
        twins = self._twins.pop(trial.number, [])
        if trial.state is TrialState.FAIL:
            self._given.extend(twins)
            return
        for given in twins:
            self._answer(given, repeat_of(trial))

    def _record(self, job: Job, outcome: Outcome) -> Trial:
        """Write the outcome with the job's rungs; without all values it is not complete."""
        trial, rungs = self._trials.pop(job.number), self._rungs.pop(job.number)
        found = {} if outcome.measured is None else outcome.measured.written()
        found |= {record.RUNGS: rungs} if rungs else {}
        found[record.CIRCUMSTANCES] = self.circumstances | found.get(record.CIRCUMSTANCES, {})
        metrics = found.get(record.METRICS, {}) | trial.sizes
        fault = missing_value(metrics, self.config.objectives)
        if fault is None and trial.anchor != UNSHARED and trial.finalist is None:
            fault = unreached(metrics, self.config.budget.must_reach)
        if outcome.state == "complete" and fault is None:
            values = tuple(float(metrics[name]) for name in self.config.objectives)
            return self.writer.complete(job.number, values, found)
        reason = fault if outcome.state == "complete" else outcome.reason
        state = TrialState.FAIL if outcome.state == "failed" else TrialState.PRUNED
        return self.writer.end(job.number, state, found, reason, outcome.error)


def _ledger(
    config: StudyConfig, objectives: tuple[Objective, ...], reference: Mapping[str, float]
) -> Ledger:
    """Return the empty ledger of a study, with its sampler."""
    fast = not config.space.sized_by_building
    setting = Setting(objectives, config.seed, config.budget.trials, reference, fast)
    return Ledger(config, objectives, reference, make_sampler(config.sampler, setting))


def _when_ended(trial: Trial) -> datetime:
    return trial.ended or datetime.max
