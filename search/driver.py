"""Decides what is trained next and what is told to the study. Knows no Ray and no torch.

An executor asks :meth:`Driver.next` for jobs while workers are free and hands outcomes to
:meth:`Driver.finish`; everything else follows.
"""

import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moocore
from optuna.trial import FrozenTrial, TrialState

from results import record
from search.config import StudyConfig
from search.jobs import Job, Outcome, Trainee, missing_value
from search.samplers import make_sampler
from search.store import Store, is_interrupted
from spaces.anchors import ANCHORS
from spaces.errors import PlanError
from spaces.objectives import OBJECTIVES
from spaces.plan import StackShape
from spaces.recipe import Candidate

DRAWS_IN_VAIN = 100


@dataclass(frozen=True)
class Given:
    """A candidate that was not drawn: an anchor, or a plan from the study file."""

    name: str
    candidate: Candidate


class Driver:
    """One search over one study.

    `facts` is what `trainee.prepare` returned, `shapes` the model's stacks. `tell_user` is
    called with every finished trial.
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
    ) -> None:
        self.config, self.store, self.trainee, self.run = config, store, trainee, run
        self.facts, self.shapes = facts, shapes
        self.running: dict[int, Job] = {}
        self.started = 0
        self.exhausted = False
        self.finished_at: list[float] = []
        self.tell_user: Callable[[FrozenTrial], None] = lambda trial: None
        self._known: dict[str, int] = {}
        self._twins: dict[int, list[int]] = defaultdict(list)
        self._exact: dict[int, dict[str, float]] = {}
        self._complete: dict[int, FrozenTrial] = {}
        self._read_history()
        self._given = deque(self._missing_givens())

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing more will be started."""
        return not self.running and (self.exhausted or self.started >= self.config.budget.trials)

    @property
    def complete(self) -> list[FrozenTrial]:
        """Completed trials, repeats left out."""
        return list(self._complete.values())

    def front(self) -> list[FrozenTrial]:
        """Completed trials that no other beats in every objective."""
        trials = self.complete
        if not trials:
            return []
        larger = [OBJECTIVES[name].direction == "maximize" for name in self.config.objectives]
        kept = moocore.is_nondominated(
            [trial.values for trial in trials], maximise=larger, keep_weakly=True
        )
        return [trial for trial, keep in zip(trials, kept, strict=True) if keep]

    def next(self) -> Job | None:
        """A job to start now, or None if nothing is to be started."""
        draws = 0
        while self.started < self.config.budget.trials and not self.exhausted:
            if self._given:
                job = self._start_given(self._given.popleft())
            else:
                job = self._start_drawn()
                draws += 1
            if job is not None:
                return job
            if draws >= DRAWS_IN_VAIN:
                self.exhausted = True
        return None

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Records how `job` ended, and the same for its repeats that waited for it."""
        del self.running[job.number]
        self.finished_at.append(time.monotonic())
        metrics = outcome.found.get(record.METRICS, {}) | self._exact.pop(job.number)
        fault = missing_value(metrics, self.config.objectives)
        if outcome.state == "complete" and fault is not None:
            outcome = Outcome("pruned", outcome.found, reason=fault)
        trial = self._record(job.number, outcome, metrics)
        if trial.state is TrialState.COMPLETE:
            self._complete[job.number] = trial
        if trial.state is TrialState.FAIL:
            del self._known[job.candidate.key()]
        for number in self._twins.pop(job.number, []):
            self.store.attach(number, **{record.SAME_AS: job.number})
            self._record(number, outcome, metrics)
        self._forget_weights()
        self.tell_user(trial)

    def _record(self, number: int, outcome: Outcome, metrics: dict[str, Any]) -> FrozenTrial:
        if outcome.state == "complete":
            values = [float(metrics[name]) for name in self.config.objectives]
            return self.store.complete(number, values, outcome.found)
        tell = self.store.prune if outcome.state == "pruned" else self.store.fail
        return tell(number, outcome)

    def _start_given(self, given: Given) -> Job | None:
        trial = self.store.ask(self._sampler())
        self.store.attach(trial.number, **{record.ANCHOR: given.name})
        return self._start(trial.number, given.candidate)

    def _start_drawn(self) -> Job | None:
        trial = self.store.ask(self._sampler())
        return self._start(trial.number, self.config.space.suggest(trial, self.shapes))

    def _start(self, number: int, candidate: Candidate) -> Job | None:
        """A job for the candidate, or None where its trial could be answered without one."""
        self.store.attach(number, **{record.CANDIDATE: candidate.written()})
        known = self._known.get(candidate.key())
        if known is not None:
            self._answer_from_memory(number, known)
            return None
        try:
            exact = self.trainee.inspect(candidate, self.facts)
        except PlanError as error:
            self.store.prune(number, Outcome("pruned", {}, reason=error.message))
            return None
        self.store.attach(number, **{record.FACTS: exact})
        over = self._over_budget(exact)
        if over:
            self.store.prune(number, Outcome("pruned", {}, reason=over))
            return None
        self.store.attach(number, **{record.STARTED: True})
        return self._run(number, candidate, exact)

    def _run(self, number: int, candidate: Candidate, exact: dict[str, float]) -> Job:
        job = Job(number, candidate, self.run / "trials" / str(number) / "model")
        self.running[number] = job
        self.started += 1
        self._known[candidate.key()] = number
        self._exact[number] = exact
        return job

    def _answer_from_memory(self, number: int, known: int) -> None:
        if known in self.running:
            self._twins[known].append(number)
            return
        twin = self.store.study.trials[known]
        attributes = {key: twin.user_attrs[key] for key in REPEATED if key in twin.user_attrs}
        attributes[record.SAME_AS] = known
        if twin.state is TrialState.COMPLETE:
            self.store.complete(number, list(twin.values), attributes)
        else:
            self.store.attach(number, **attributes)
            self.store.prune(number, Outcome("pruned", {}, twin.user_attrs.get(record.REASON)))

    def _over_budget(self, exact: dict[str, float]) -> str | None:
        for name, limit in self.config.budget.limits().items():
            if exact[name] > limit:
                return f"over budget: {exact[name]:,.0f} {name}, at most {limit:,.0f} allowed"
        return None

    def _sampler(self) -> Any:
        return make_sampler(
            self.config.sampler,
            seed=self.config.seed,
            trials_present=len(self.store.trials()),
            budget=self.config.budget.trials,
        )

    def _missing_givens(self) -> Iterable[Given]:
        present = {
            trial.user_attrs.get(record.ANCHOR)
            for trial in self.store.trials()
            if not is_interrupted(trial)
        }
        return [given for given in self._givens() if given.name not in present]

    def _givens(self) -> Iterable[Given]:
        recipe = self.config.space.reference_recipe().model_copy(update={"kept_top": 0})
        for name in self.config.anchors:
            plan = ANCHORS[name](self.shapes)
            yield Given(name, Candidate(plan=plan, recipe=recipe).bound(self.shapes))
        compression = self.config.space.reference_compression()
        for i, plan in enumerate(self.config.plans):
            given = Candidate(plan=plan, compression=compression, recipe=recipe)
            yield Given(f"plan-{i}", given.bound(self.shapes))

    def _read_history(self) -> None:
        for trial in self.store.trials():
            if is_interrupted(trial) or record.STARTED not in trial.user_attrs:
                continue
            self.started += 1
            if trial.state is not TrialState.FAIL:
                written = Candidate.model_validate(trial.user_attrs[record.CANDIDATE])
                self._known[written.key()] = trial.number
            if trial.state is TrialState.COMPLETE:
                self._complete[trial.number] = trial

    def _forget_weights(self) -> None:
        """Removes the weights of trials that are neither on the front nor anchors."""
        if self.config.keep == "all":
            return
        kept = {trial.number for trial in self.front()} if self.config.keep == "front" else set()
        for number, trial in self._complete.items():
            folder = self.run / "trials" / str(number)
            if number not in kept and record.ANCHOR not in trial.user_attrs and folder.exists():
                shutil.rmtree(folder)


REPEATED = (record.FACTS, record.METRICS, record.PER_CLASS, record.CONFUSION)
