"""The study's Optuna storage, in its run folder or a database: the only record of what happened.

Nothing here decides anything; it opens, starts, tells and attaches. Names of attributes are in
`results/reading/attributes.py`. A trial is started with one transaction and ended with one, so
whatever kills the driver finds it either RUNNING or finished with everything that was found.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from sharetune.results.reading import attributes as record
from sharetune.results.reading.location import Location, connected, first_line, rdb_storage
from sharetune.results.reading.trial import Draw, Trial
from sharetune.search.outcome import is_disk_full
from sharetune.search.pinned import bulk_rows
from sharetune.search.pinned.transactions import held_sessions, one_transaction
from sharetune.spaces.errors import RunError
from sharetune.spaces.objectives import OBJECTIVES

KEPT_HINT = "what is finished is kept; continue with --resume"
SERVER_NOTICES_A_LOST_HOST = (
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)


class StudyWriter:
    """An open study. `lock` is held until the process ends, so that no other driver joins."""

    def __init__(self, storage: BaseStorage, name: str, lock: int | None = None) -> None:
        self.storage, self.name = storage, name
        self._study_id = storage.get_study_id_from_name(name)
        self._lock = lock
        self._running: dict[int, FrozenTrial] = {}

    @classmethod
    def create(
        cls, run: Path, name: str, attributes: dict[str, Any], url: str | None = None
    ) -> "StudyWriter":
        """A new study in a run folder that has none, or in the database at `url`, to which the
        folder then points.

        Raises :class:`RunError` if another driver holds the folder or the study, or the database
        has a study of that name.
        """
        run.mkdir(parents=True, exist_ok=True)
        location = Location(run, url, None if url is None else name)
        with _locked(location) as (storage, lock):
            if url is not None and name in _names(storage):
                raise RunError(
                    f"{url} holds a study {name} already",
                    "continue it with --resume and its run folder, or give this one another name",
                )
            location.write()
            return cls.create_in(storage, name, attributes, lock)

    @classmethod
    def create_in(
        cls, storage: BaseStorage, name: str, attributes: dict[str, Any], lock: int | None = None
    ) -> "StudyWriter":
        """A new study in any Optuna storage."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = [OBJECTIVES[o].direction.upper() for o in attributes[record.OBJECTIVES]]
        with one_transaction(storage):
            storage.create_new_study([StudyDirection[d] for d in directions], name)
            store = cls(storage, name, lock)
            for key, value in attributes.items():
                store.note(key, value)
        return store

    @classmethod
    def open(cls, run: Path) -> "StudyWriter":
        """The study of an existing run folder.

        Raises :class:`RunError` if there is none or another driver holds it.
        """
        require_study(run)
        location = Location.of(run)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _locked(location) as (storage, lock):
            names = _names(storage)
            name = location.study or next(iter(names), None)
            if name not in names:
                raise RunError(
                    f"the study in {run} was never created", f"remove {run} and start again"
                )
            return cls(storage, name, lock)

    def close(self) -> None:
        """Lets another driver have the study."""
        self.storage.remove_session()
        if isinstance(self.storage, RDBStorage):
            self.storage.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)

    @property
    def study(self) -> optuna.Study:
        """The study as Optuna's users know it."""
        return optuna.load_study(study_name=self.name, storage=self.storage)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the study."""
        return self.storage.get_study_user_attrs(self._study_id)

    def note(self, key: str, value: Any) -> None:
        """An attribute of the study."""
        self.storage.set_study_user_attr(self._study_id, key, value)

    def trials(self, *states: TrialState) -> list[Trial]:
        """Read the study's trials in these states, or all, from the storage."""
        wanted = states or None
        found = self.storage.get_all_trials(self._study_id, deepcopy=False, states=wanted)
        return [Trial.of(trial) for trial in found]

    def trial(self, number: int) -> Trial:
        """Read one trial from the storage."""
        return Trial.of(self._frozen(number))

    def start(self, draw: Draw, attributes: dict[str, Any]) -> Trial:
        """Write a new RUNNING trial."""
        trial = self._new(draw, attributes, state=TrialState.RUNNING)
        self._running[trial.number] = trial
        return Trial.of(trial)

    def answer(
        self, draw: Draw, attributes: dict[str, Any], values: Sequence[float] | None
    ) -> Trial:
        """Write a new trial that is finished at once: COMPLETE with `values`, or PRUNED."""
        state = TrialState.PRUNED if values is None else TrialState.COMPLETE
        return Trial.of(self._new(draw, attributes, state=state, values=values))

    def complete(self, number: int, values: Sequence[float], found: dict[str, Any]) -> Trial:
        """End a trial with true values, and attach what else was measured."""
        return self._tell(number, TrialState.COMPLETE, found, values)

    def end(
        self,
        number: int,
        state: TrialState,
        found: dict[str, Any],
        reason: str | None = None,
        error: dict[str, str] | None = None,
    ) -> Trial:
        """End a trial without values: PRUNED if it was stopped or its candidate is at fault, so
        that the sampler avoids its like; FAIL if the machinery failed."""
        why = {record.REASON: reason, record.ERROR: error}
        return self._tell(number, state, found | {k: v for k, v in why.items() if v})

    def end_interrupted(self) -> None:
        """End all RUNNING trials as interrupted."""
        for trial in self.trials(TrialState.RUNNING):
            self._running[trial.number] = self._frozen(trial.number)
            self.end(trial.number, TrialState.FAIL, {}, record.INTERRUPTED)

    def _frozen(self, number: int) -> FrozenTrial:
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self.storage.get_trial(trial_id)

    def _new(self, draw: Draw, attributes: dict[str, Any], **ended: Any) -> FrozenTrial:
        trial = create_trial(
            params=draw.params,
            distributions=draw.distributions,
            system_attrs=draw.system_attrs,
            user_attrs=attributes,
            **ended,
        )
        if bulk_rows.can_write(self.storage):
            with one_transaction(self.storage):
                trial._trial_id, trial.number = bulk_rows.create(
                    self.storage, self._study_id, trial
                )
        else:
            trial._trial_id = self.storage.create_new_trial(self._study_id, trial)
            trial.number = self.storage.get_trial_number_from_id(trial._trial_id)
        return trial

    def _tell(
        self,
        number: int,
        state: TrialState,
        attributes: dict[str, Any],
        values: Sequence[float] | None = None,
    ) -> Trial:
        """End a running trial; return it as it was written."""
        trial = self._running[number]
        with one_transaction(self.storage):
            self._attach(trial, attributes)
            self.storage.set_trial_state_values(trial._trial_id, state, values)
        trial.user_attrs = trial.user_attrs | attributes
        trial.state, trial.datetime_complete = state, datetime.now()
        if values is not None:
            trial.values = list(values)
        del self._running[number]
        return Trial.of(trial)

    def _attach(self, trial: FrozenTrial, attributes: dict[str, Any]) -> None:
        new = {key: value for key, value in attributes.items() if key not in trial.user_attrs}
        if bulk_rows.can_write(self.storage):
            bulk_rows.attach(self.storage, trial._trial_id, new)
            attributes = {key: attributes[key] for key in attributes.keys() - new.keys()}
        for key, value in attributes.items():
            self.storage.set_trial_user_attr(trial._trial_id, key, value)


@contextmanager
def one_error(run: Path) -> Iterator[None]:
    """Turns what a storage or a disk refuses into one :class:`RunError`."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise RunError(
            f"the storage of {run} failed: {first_line(error)}", f"put it right; {KEPT_HINT}"
        ) from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise disk_full(run) from error


def disk_full(run: Path) -> RunError:
    """What to say when no space is left."""
    return RunError(f"no space is left on the device of {run}", f"make some; {KEPT_HINT}")


def require_study(run: Path) -> None:
    """Raises :class:`RunError` if the folder holds no study."""
    if not Location.of(run).exists:
        raise RunError(f"no study in {run}", "start it without --resume")


def _names(storage: BaseStorage) -> list[str]:
    return [study.study_name for study in storage.get_all_studies()]


@contextmanager
def _locked(location: Location) -> Iterator[tuple[RDBStorage, int]]:
    """The storage and the lock of the folder, both let go of if what is done with them fails."""
    lock = _lock(location.run)
    try:
        yield _in_folder(location.run) if location.url is None else _in_database(location), lock
    except BaseException:
        os.close(lock)
        raise


def _in_folder(run: Path) -> RDBStorage:
    return held_sessions(
        RDBStorage(
            f"sqlite:///{(run / record.STORAGE).resolve()}",
            engine_kwargs={"connect_args": {"timeout": 60}},
        )
    )


def _in_database(location: Location) -> RDBStorage:
    """The database, over the one connection that holds the study's lock.

    The server frees the lock when the connection ends, so a driver that lost it cannot write.
    Tables are made by one driver at a time.
    """
    connection = _LockedConnection(location)
    connection.lock("tables")
    storage = rdb_storage(connection.once, poolclass=StaticPool)
    connection.unlock("tables")
    return held_sessions(storage)


class _LockedConnection:
    """A connection to a database that holds the lock of a study as long as it lives."""

    def __init__(self, location: Location) -> None:
        self.location, self.given = location, False
        self.connection = connected(str(location.url))
        with self.connection.transaction():
            for setting in SERVER_NOTICES_A_LOST_HOST:
                self.connection.execute(setting)
        if not self._ask("SELECT pg_try_advisory_lock(%s)", f"study {location.study}"):
            self.connection.close()
            raise _held(str(location))

    def once(self) -> Any:
        """The connection, the first time; a second one would not hold the lock."""
        if self.given:
            raise RunError(f"the connection to {self.location.url} was lost", KEPT_HINT)
        self.given = True
        return self.connection

    def lock(self, what: str) -> None:
        """Waits for the lock of `what`."""
        self._ask("SELECT pg_advisory_lock(%s)", what)

    def unlock(self, what: str) -> None:
        """Frees the lock of `what`."""
        self._ask("SELECT pg_advisory_unlock(%s)", what)

    def _ask(self, query: str, what: str) -> Any:
        digest = hashlib.sha256(f"sharetune {what}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        with self.connection.transaction():
            return self.connection.execute(query, [key]).fetchone()[0]


def _lock(run: Path) -> int:
    handle = os.open(run / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise _held(str(run)) from None
    return handle


def _held(what: str) -> RunError:
    return RunError(
        f"another search is running on {what}", "wait for it, or choose another folder with --out"
    )
