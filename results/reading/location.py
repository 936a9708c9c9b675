"""Locate the study of a run folder: in the folder itself, or in a PostgreSQL database.

A folder whose study is in a database holds a file with the database's URL and the study's name. No
password is ever written: libpq finds it in ``PGPASSWORD`` or ``~/.pgpass``. A database is connected
to only if the user has named it (`servers.py`).
"""

import shlex
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from optuna.storages import RDBStorage
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from sharetune.results.reading import attributes as record
from sharetune.results.reading.servers import protection, require_named
from sharetune.spaces.errors import ConfigError, RunError
from sharetune.spaces.whole_files import write_whole

SECRETS = ("password", "sslpassword")
"""Parameters of a URL that hold a password."""

BUSY_TIMEOUT_S = 30.0
"""Seconds to wait for a search that is writing to the SQLite file."""

READ_ONLY = {"options": "-c default_transaction_read_only=on"}
"""libpq's options for a connection that cannot change anything."""

CONNECTION = {"connect_timeout": 20, "keepalives_idle": 30, "keepalives_interval": 10}
"""libpq's options, all in seconds: to wait for a connection, and to probe whether it is alive."""

STATE_OF_STUDY = """
    SELECT s.study_id, t.state, count(t.trial_id),
        (SELECT count(*) FROM study_user_attributes a WHERE a.study_id = s.study_id)
    FROM studies s LEFT JOIN trials t ON t.study_id = s.study_id
    WHERE s.study_name = %s GROUP BY s.study_id, t.state ORDER BY t.state
"""
"""Query whose rows change with every trial that starts or ends, and every attribute that is new."""

TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
"""Query for the names of tables where a connection to PostgreSQL creates its own."""

TABLES_OF_A_FILE = "SELECT name FROM sqlite_master WHERE type = 'table'"
"""Query for the names of tables in SQLite."""


@dataclass(frozen=True)
class Location:
    """The place of a run folder's study.

    It is in the database at `url` under the name `study`; where both are None, in the folder `run`.
    """

    run: Path
    url: str | None = None
    study: str | None = None

    @classmethod
    def of(cls, run: Path) -> "Location":
        """Read the location from a run folder. Raises :class:`RunError` if it cannot be read."""
        pointer = run / record.POINTER
        if not pointer.exists():
            return cls(run)
        try:
            data = yaml.safe_load(pointer.read_text("utf-8"))
            return cls(run, checked_url(data["url"]), str(data["study"]))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
            raise RunError(
                f"{pointer} does not say where the study is: {error!r}",
                "it needs url: postgresql://HOST/DATABASE, and study: NAME",
            ) from None

    def write(self) -> None:
        """Write the pointer file, in one step, if the study is in a database."""
        if self.url is None:
            return
        text = yaml.safe_dump({"url": self.url, "study": self.study})
        write_whole(self.run / record.POINTER, text)

    @property
    def exists(self) -> bool:
        """Return whether the folder holds a study or points to one."""
        return self.url is not None or (self.run / record.STORAGE).is_file()

    def __str__(self) -> str:
        return str(self.run / record.STORAGE) if self.url is None else f"{self.study} in {self.url}"

    @contextmanager
    def reading(self) -> Iterator[RDBStorage]:
        """Open the storage read-only; SQLite may still roll back what a killed writer left."""
        with self.of_this_schema():
            if self.url is None:
                creator = {"creator": lambda: _connect(self.run / record.STORAGE)}
                storage = RDBStorage("sqlite:///study.db", engine_kwargs=creator)
            else:
                storage = rdb_storage(lambda: self.connect(**READ_ONLY))
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()

    @contextmanager
    def of_this_schema(self) -> Iterator[None]:
        """Raise :class:`RunError` with the way out where Optuna refuses the storage's tables."""
        try:
            yield
        except RuntimeError as error:
            if "table schema" not in str(error):
                raise
            upgrade = shlex.join(["optuna", "storage", "upgrade", "--storage", self._engine_url])
            is_older = "storage upgrade" in str(error)
            raise RunError(
                f"{self} has the tables of {'an older' if is_older else 'a newer'} version of "
                "Optuna",
                f"copy it first, then: {upgrade}" if is_older else "pip install -U optuna",
            ) from error

    @property
    def _engine_url(self) -> str:
        if self.url is None:
            return f"sqlite:///{(self.run / record.STORAGE).resolve()}"
        return self.url.replace("postgresql://", "postgresql+psycopg://", 1)

    def connect(self, **options: object) -> Any:
        """Open a connection to the database.

        Raises :class:`RunError` if the user has not named it, or if it cannot be reached.
        """
        require_named(str(self.url), self.run)
        return connected(str(self.url), **options)

    def _rows(self, query: str, values: Sequence[str | None]) -> list[Any]:
        with self.connect(**READ_ONLY) as connection:
            return list(connection.execute(query, values))

    def tables(self) -> set[str]:
        """Return the names of the tables that are there."""
        if self.url is not None:
            return {row[0] for row in self._rows(TABLES, [])}
        with closing(_connect(self.run / record.STORAGE)) as connection:
            return {row[0] for row in connection.execute(TABLES_OF_A_FILE)}

    def state(self) -> str:
        """Return a text that changes whenever the study does."""
        if self.url is not None:
            return str(self._rows(STATE_OF_STUDY, [self.study]))
        found = []
        for path in (self.run / record.STORAGE, self.run / f"{record.STORAGE}-wal"):
            if path.exists():
                stat = path.stat()
                found.append(f"{stat.st_mtime_ns}-{stat.st_size}")
        return "-".join(found)


def checked_url(url: str) -> str:
    """Return `url` if it names a PostgreSQL database and holds no password.

    Raises :class:`ConfigError`, whose text does not repeat the password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("storage is not a URL", EXAMPLE) from None
    if parsed.password is not None or set(SECRETS) & set(parsed.query):
        raise ConfigError(
            "storage holds a password, which would be stored with the study",
            "leave it out of the URL: set PGPASSWORD, or write it into ~/.pgpass",
        )
    if parsed.drivername != "postgresql" or not parsed.database:
        raise ConfigError(f"storage must name a PostgreSQL database, but got {url}", EXAMPLE)
    return url


EXAMPLE = "write postgresql://USER@HOST/DATABASE, or leave storage out: the run folder keeps it"
"""Hint of errors about a storage's URL."""


def connected(url: str, **options: Any) -> Any:
    """Open a psycopg connection to the database at `url`, to which no password goes in clear.

    Raises :class:`RunError` if it cannot be reached.
    """
    try:
        import psycopg
    except ImportError:
        raise RunError(
            "a study in PostgreSQL needs psycopg", "pip install 'sharetune[postgres]'"
        ) from None
    try:
        parameters = psycopg.conninfo.conninfo_to_dict(url)
        return psycopg.connect(url, **(CONNECTION | protection(parameters) | options))
    except psycopg.Error as error:
        raise RunError(
            f"the database at {url} cannot be reached: {' '.join(str(error).split())}",
            "see that the server runs; a password comes from PGPASSWORD or ~/.pgpass",
        ) from None


def rdb_storage(connect: Callable[[], Any], **engine: object) -> RDBStorage:
    """Make Optuna's storage over PostgreSQL connections that `connect` opens."""
    return RDBStorage("postgresql+psycopg://", engine_kwargs={"creator": connect, **engine})


def _connect(storage: Path) -> sqlite3.Connection:
    """Open a SQLite connection that may roll back a killed writer's changes, and writes nothing."""
    connection = sqlite3.connect(
        f"{storage.resolve().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


def database_error(error: BaseException) -> BaseException:
    """Return the database's own error, which Optuna and Ray Tune wrap in errors of theirs."""
    chain = list(_causes(error))
    return next((own for cause in chain if (own := getattr(cause, "orig", None))), chain[-1])


def first_line(error: BaseException) -> str:
    """Return the database's own message, without the SQL statement that caused it."""
    return str(database_error(error)).strip().split("\n")[0]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, innermost last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
