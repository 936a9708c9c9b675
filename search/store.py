"""The study's Optuna storage in its run folder: the only record of what happened.

Nothing here decides anything; it opens, asks, tells and attaches. Names of attributes are in
`results.record`.
"""

import fcntl
import os
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from results import record
from search.jobs import Outcome
from spaces.errors import RunError
from spaces.objectives import OBJECTIVES

INTERRUPTED = "interrupted"


class Store:
    """An open study. `lock` is held until the process ends, so that no other driver joins."""

    def __init__(self, study: optuna.Study, lock: int) -> None:
        self.study = study
        self._lock = lock
        self._live: dict[int, Trial] = {}

    @classmethod
    def create(cls, run: Path, name: str, attributes: dict[str, Any]) -> "Store":
        """A new study in a run folder that has none.

        Raises :class:`RunError` if another driver holds the folder.
        """
        run.mkdir(parents=True, exist_ok=True)
        lock = _lock(run)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=name,
            storage=_storage(run),
            directions=[OBJECTIVES[o].direction for o in attributes[record.OBJECTIVES]],
        )
        for key, value in attributes.items():
            study.set_user_attr(key, value)
        return cls(study, lock)

    @classmethod
    def open(cls, run: Path) -> "Store":
        """The study of an existing run folder.

        Raises :class:`RunError` if there is none or another driver holds it.
        """
        require_study(run)
        lock = _lock(run)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = _storage(run)
        names = optuna.get_all_study_names(storage)
        if not names:
            raise RunError(f"the study in {run} was never created", f"remove {run} and start again")
        return cls(optuna.load_study(study_name=names[0], storage=storage), lock)

    def close(self) -> None:
        """Lets another driver have the study."""
        os.close(self._lock)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the study."""
        return self.study.user_attrs

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The study's trials in these states, or all."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def ask(self, sampler: BaseSampler) -> Trial:
        """A new RUNNING trial whose parameters `sampler` proposes, or a queued one."""
        self.study.sampler = sampler
        trial = self.study.ask()
        self._live[trial.number] = trial
        return trial

    def attach(self, number: int, **attributes: Any) -> None:
        """Attributes of a trial that is not finished yet."""
        for key, value in attributes.items():
            self._live[number].set_user_attr(key, value)

    def complete(self, number: int, values: list[float], found: dict[str, Any]) -> FrozenTrial:
        """Tells true values and what was measured beside them."""
        self.attach(number, **found)
        return self._tell(number, values=values)

    def prune(self, number: int, outcome: Outcome) -> FrozenTrial:
        """Tells that the candidate itself is at fault, so that the sampler avoids its like."""
        self.attach(number, reason=outcome.reason, **_error(outcome))
        return self._tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, outcome: Outcome) -> FrozenTrial:
        """Tells that the trial failed, with its error."""
        reason = {record.REASON: outcome.reason} if outcome.reason else {}
        self.attach(number, **reason, **_error(outcome))
        return self._tell(number, state=TrialState.FAIL)

    def _tell(self, number: int, **result: Any) -> FrozenTrial:
        trial = self.study.tell(number, **result)
        self._live.pop(number, None)
        return trial

    def requeue_interrupted(self) -> int:
        """Ends all RUNNING trials as interrupted and queues their parameters again.

        Trials without parameters (anchors and given plans) are not queued: the driver starts
        those that are missing. Returns how many there were.
        """
        interrupted = self.trials(TrialState.RUNNING)
        for trial in interrupted:
            self._live[trial.number] = Trial(self.study, trial._trial_id)
            if trial.params:
                self.study.enqueue_trial(trial.params)
            self.fail(trial.number, Outcome("failed", {}, reason=INTERRUPTED))
        return len(interrupted)


def require_study(run: Path) -> None:
    """Raises :class:`RunError` if the folder holds no study."""
    if not (run / record.STORAGE).exists():
        raise RunError(f"no study in {run}", "start it without --resume")


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether the trial ended because its driver did."""
    return trial.user_attrs.get(record.REASON) == INTERRUPTED


def _error(outcome: Outcome) -> dict[str, Any]:
    return {record.ERROR: outcome.error} if outcome.error else {}


def _storage(run: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(
        f"sqlite:///{(run / record.STORAGE).resolve()}",
        engine_kwargs={"connect_args": {"timeout": 60}},
    )


def _lock(run: Path) -> int:
    handle = os.open(run / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise RunError(
            f"another search is running on {run}",
            "wait for it, or choose another folder with --out",
        ) from None
    return handle
