"""Write the study's Optuna storage, in its run folder or a database: the only record of it.

Nothing here decides anything. Names of attributes are in `results/reading/attributes.py`. A trial
is started in one transaction and ended in one, so that after a search process is killed at any
moment each trial is either RUNNING or finished with everything that was measured. The study names
its driver by a token, which each transaction compares with its own before it counts.
"""

import hashlib
import os
import secrets
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.event import listen
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from sharetune.results.reading import attributes as record
from sharetune.results.reading.location import Location, database_error, first_line, rdb_storage
from sharetune.results.reading.servers import name_server
from sharetune.results.reading.trial import Draw, Trial
from sharetune.search.outcome import is_disk_full
from sharetune.search.pinned import bulk_rows
from sharetune.search.pinned.tables import missing_tables
from sharetune.search.pinned.transactions import held_sessions, one_transaction
from sharetune.search.study.folder_lock import held, lock_folder
from sharetune.spaces.errors import KEPT, RunError
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.run_folder import RunFolder
from sharetune.spaces.settings import one_door
from sharetune.spaces.whole_files import sync

DAMAGED = "it is damaged, or another version wrote it: take a copy of the folder if there is one"
"""Hint of errors about a storage that is there and cannot be read."""

SERVER_NOTICES_A_LOST_HOST = (
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)
"""Settings by which PostgreSQL frees a lock about 60 s after its host was lost, not 2 hours."""


def reading(run: Path) -> AbstractContextManager[None]:
    """Turn any failure of reading a run folder's study into one :class:`RunError`."""
    return one_door(f"the study in {run}", RunError, DAMAGED)


class StudyWriter:
    """An open study. `lock` is held until the process ends, so that no other search joins.

    With its first change a process writes a token of its own into the study. If another is found
    there later, a second driver has taken the study over, and nothing more is written.
    """

    def __init__(self, storage: BaseStorage, name: str, lock: int | None = None) -> None:
        self.storage, self.name = storage, name
        self._study_id = storage.get_study_id_from_name(name)
        self._lock = lock
        self._token, self._drives = secrets.token_hex(8), False
        self._running: dict[int, FrozenTrial] = {}
        self._began: dict[int, float] = {}
        self._opened_at = time.monotonic()

    @classmethod
    def create(
        cls,
        run: Path,
        name: str,
        attributes: dict[str, Any],
        url: str | None = None,
        lock: int | None = None,
    ) -> "StudyWriter":
        """Create a study in a run folder that has none, or in the database at `url`.

        The folder then points to the database. `lock` is the folder's, if it is held already, and
        stays the caller's. After an error the folder holds no study. Raises :class:`RunError` if
        another search holds the folder or the study, or the database has a study of that name.
        """
        run.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(RunFolder(run)) if lock is None else os.dup(lock)
        with _closed_after_errors(lock):
            if url is None:
                _create_file(run, name, attributes)
                return cls(_in_file(run / record.STORAGE), name, lock)
            location = Location(run, url, name)
            name_server(url)
            storage = _in_database(location, is_new=True)
            if name in _names(storage):
                raise RunError(
                    f"{url} holds a study {name} already",
                    "continue it with --resume and its run folder, or give this one another name",
                )
            location.write()
            try:
                return cls.create_in(storage, name, attributes, lock)
            except BaseException:
                RunFolder(run).pointer.unlink()
                raise

    @classmethod
    def create_in(
        cls, storage: BaseStorage, name: str, attributes: dict[str, Any], lock: int | None = None
    ) -> "StudyWriter":
        """Create a study in any Optuna storage."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = [OBJECTIVES[o].direction.upper() for o in attributes[record.OBJECTIVES]]
        with one_transaction(storage):
            study_id = storage.create_new_study([StudyDirection[d] for d in directions], name)
            for key, value in attributes.items():
                storage.set_study_user_attr(study_id, key, value)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study = optuna.load_study(study_name=name, storage=storage)
                study.set_metric_names(attributes[record.OBJECTIVES])
        return cls(storage, name, lock)

    @classmethod
    def open(cls, run: Path) -> "StudyWriter":
        """Open the study of an existing run folder.

        Raises :class:`RunError` if there is none or another search holds it.
        """
        require_study(run)
        location = Location.of(run)
        with reading(run):
            return cls._open(run, location)

    @classmethod
    def _open(cls, run: Path, location: Location) -> "StudyWriter":
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        lock = lock_folder(RunFolder(run))
        with _closed_after_errors(lock):
            in_file = location.url is None
            with location.of_this_schema():
                if in_file:
                    _require_tables(location, location.tables())
                storage = _in_file(run / record.STORAGE) if in_file else _in_database(location)
            names = _names(storage)
            name = location.study or next(iter(names), None)
            if name not in names:
                raise RunError(
                    f"the study in {run} was never created", f"remove {run} and start again"
                )
            return cls(storage, name, lock)

    def close(self) -> None:
        """Release the study for another search."""
        self.storage.remove_session()
        if isinstance(self.storage, RDBStorage):
            self.storage.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)

    @property
    def study(self) -> optuna.Study:
        """The study as an ``optuna.Study``."""
        return optuna.load_study(study_name=self.name, storage=self.storage)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the study."""
        return self.storage.get_study_user_attrs(self._study_id)

    def note(self, key: str, value: object) -> None:
        """Set an attribute of the study."""
        with self._writing():
            self.storage.set_study_user_attr(self._study_id, key, value)

    def trials(self, *states: TrialState) -> list[Trial]:
        """Read the study's trials in these states, or all, from the storage."""
        wanted = states or None
        found = self.storage.get_all_trials(self._study_id, deepcopy=False, states=wanted)
        return [Trial.of(trial) for trial in found]

    def trial(self, number: int) -> Trial:
        """Read one trial from the storage."""
        return Trial.of(self._frozen(number))

    def start(self, draw: Draw, attributes: Mapping[str, object]) -> Trial:
        """Write a new RUNNING trial."""
        trial = self._new(draw, attributes, state=TrialState.RUNNING)
        self._running[trial.number] = trial
        self._began[trial.number] = time.monotonic()
        return Trial.of(trial)

    def answer(
        self, draw: Draw, attributes: Mapping[str, object], values: Sequence[float] | None
    ) -> Trial:
        """Write a new trial that is finished at once: COMPLETE with `values`, or PRUNED."""
        state = TrialState.PRUNED if values is None else TrialState.COMPLETE
        return Trial.of(self._new(draw, attributes, state=state, values=values))

    def complete(self, number: int, values: Sequence[float], found: Mapping[str, object]) -> Trial:
        """End a trial with its final values, and attach everything else that was measured."""
        return self._tell(number, TrialState.COMPLETE, found, values)

    def end(
        self,
        number: int,
        state: TrialState,
        found: dict[str, Any],
        reason: str | None = None,
        error: dict[str, str] | None = None,
    ) -> Trial:
        """End a trial without values.

        PRUNED if it was stopped or its candidate is at fault, so that the sampler avoids its like;
        FAIL if the machinery failed.
        """
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

    def _new(self, draw: Draw, attributes: Mapping[str, object], **ended: object) -> FrozenTrial:
        trial = create_trial(
            params=draw.params,
            distributions=draw.distributions,
            system_attrs=draw.system_attrs,
            user_attrs=attributes,
            **ended,
        )
        with self._writing():
            if bulk_rows.can_write(self.storage):
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
        attributes: Mapping[str, object],
        values: Sequence[float] | None = None,
    ) -> Trial:
        """End a running trial; return it as it was written."""
        trial = self._running[number]
        attributes = dict(attributes) | self._ran(number)
        with self._writing():
            self._attach(trial, attributes)
            self.storage.set_trial_state_values(trial._trial_id, state, values)
        trial.user_attrs = trial.user_attrs | attributes
        trial.state, trial.datetime_complete = state, datetime.now()
        if values is not None:
            trial.values = list(values)
        del self._running[number]
        return Trial.of(trial)

    def _ran(self, number: int) -> dict[str, Any]:
        """Return when this process ran a trial, by a clock that nobody sets."""
        began, now = self._began.pop(number, None), time.monotonic()
        if began is None:
            return {}
        since = {"from": began - self._opened_at, "to": now - self._opened_at}
        times = {name: round(seconds, 3) for name, seconds in since.items()}
        return {record.RAN: {"process": self._token, **times}}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write what is inside at once, if this process is still the study's driver.

        The token is read last, when the transaction has locked the study.
        """
        with one_transaction(self.storage):
            if not self._drives:
                self.storage.set_study_user_attr(self._study_id, record.DRIVER, self._token)
            yield
            driver = bulk_rows.study_attribute(self.storage, self._study_id, record.DRIVER)
            if driver != self._token:
                raise RunError(
                    f"another search has taken over the study {self.name}",
                    f"let only one run; {KEPT}",
                )
        self._drives = True

    def _attach(self, trial: FrozenTrial, attributes: Mapping[str, object]) -> None:
        new = {key: value for key, value in attributes.items() if key not in trial.user_attrs}
        if bulk_rows.can_write(self.storage):
            bulk_rows.attach(self.storage, trial._trial_id, new)
            attributes = {key: attributes[key] for key in attributes.keys() - new.keys()}
        for key, value in attributes.items():
            self.storage.set_trial_user_attr(trial._trial_id, key, value)


@contextmanager
def one_error(run: Path) -> Iterator[None]:
    """Turn errors of a storage or a disk into one :class:`RunError`."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        if is_disk_full(database_error(error)):
            raise disk_full(run) from error
        raise RunError(
            f"the storage of {run} failed: {first_line(error)}", f"put it right; {KEPT}"
        ) from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise disk_full(run) from error


def disk_full(run: Path) -> RunError:
    """Return the error for a disk with no space left."""
    return RunError(f"no space is left on the disk for {run}", f"make some; {KEPT}")


def require_study(run: Path) -> None:
    """Raise :class:`RunError` if the folder holds no study."""
    if not Location.of(run).exists:
        raise RunError(f"no study in {run}", "start it without --resume")


def _names(storage: BaseStorage) -> list[str]:
    return [study.study_name for study in storage.get_all_studies()]


@contextmanager
def _closed_after_errors(lock: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(lock)
        raise


def _create_file(run: Path, name: str, attributes: dict[str, Any]) -> None:
    """Create a study's file, which takes its name when everything is in it."""
    draft = run / f"{record.STORAGE}.part"
    for left in (draft, draft.with_name(f"{draft.name}-journal")):
        left.unlink(missing_ok=True)
    writer = StudyWriter.create_in(_in_file(draft), name, attributes)
    writer.close()
    sync(draft)
    draft.replace(run / record.STORAGE)
    sync(run)


def _in_file(path: Path) -> RDBStorage:
    storage = held_sessions(
        RDBStorage(f"sqlite:///{path.resolve()}", engine_kwargs={"connect_args": {"timeout": 60}})
    )
    listen(storage.engine, "connect", _sync_each_commit)
    storage.engine.dispose()  # connections so far do not sync so
    return storage


def _sync_each_commit(connection: Any, _: Any) -> None:
    """Have SQLite also sync the folder after a commit: else a power cut may bring back the journal,
    and with it the state before."""
    connection.execute("PRAGMA synchronous = EXTRA")


def _require_tables(location: Location, present: Collection[str], *, is_new: bool = False) -> None:
    """Raise :class:`RunError` where a table of Optuna's is missing, which Optuna would make anew.

    A database that `is_new` to it may have none of them.
    """
    missing = missing_tables(present)
    if not missing or (is_new and not set(missing_tables(())) & set(present)):
        return
    raise RunError(
        f"{location} lacks the table{'s' if len(missing) > 1 else ''} {', '.join(missing)}", DAMAGED
    )


def _in_database(location: Location, *, is_new: bool = False) -> RDBStorage:
    """Open the database over the one connection that holds the study's lock.

    The server frees the lock when the connection ends, so a search that lost it cannot write.
    Tables are created by one search at a time.
    """
    connection = _LockedConnection(location)
    connection.lock("tables")
    _require_tables(location, location.tables(), is_new=is_new)
    storage = rdb_storage(connection.once, poolclass=StaticPool)
    connection.unlock("tables")
    return held_sessions(storage)


class _LockedConnection:
    """A connection to a database that holds the lock of a study as long as it lives."""

    def __init__(self, location: Location) -> None:
        self.location, self.given = location, False
        self.connection = location.connect()
        with self.connection.transaction():
            for setting in SERVER_NOTICES_A_LOST_HOST:
                self.connection.execute(setting)
        if not self._ask("SELECT pg_try_advisory_lock(%s)", f"study {location.study}"):
            self.connection.close()
            raise held(str(location))

    def once(self) -> Any:
        """Return the connection, the first time; a second one would not hold the lock."""
        if self.given:
            raise RunError(f"the connection to {self.location.url} was lost", KEPT)
        self.given = True
        return self.connection

    def lock(self, what: str) -> None:
        """Wait for the lock of `what`."""
        self._ask("SELECT pg_advisory_lock(%s)", what)

    def unlock(self, what: str) -> None:
        """Free the lock of `what`."""
        self._ask("SELECT pg_advisory_unlock(%s)", what)

    def _ask(self, query: str, what: str) -> Any:
        digest = hashlib.sha256(f"sharetune {what}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        with self.connection.transaction():
            return self.connection.execute(query, [key]).fetchone()[0]
