"""Let one transaction hold everything that is written of a trial: Optuna commits each attribute."""

from collections.abc import Iterator
from contextlib import contextmanager

from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import orm

from sharetune.search.pinned.versions import is_known


class HeldSession(orm.Session):
    """A session whose commits wait while it is `held`."""

    held = False

    def commit(self) -> None:
        """Commit, unless the session is held."""
        if not self.held:
            super().commit()

    def close(self) -> None:
        """Close, unless the session is held."""
        if not self.held:
            super().close()


def held_sessions(storage: RDBStorage) -> RDBStorage:
    """Give `storage` sessions that can be held, where this version of Optuna is known."""
    if is_known("optuna"):
        sessions = orm.sessionmaker(bind=storage.engine, class_=HeldSession)
        storage.scoped_session = orm.scoped_session(sessions)
    return storage


@contextmanager
def one_transaction(storage: BaseStorage) -> Iterator[None]:
    """Commit all that is written inside at once, or nothing of it.

    With a storage that is no database, or an unknown version of Optuna, each write counts alone.
    """
    session = storage.scoped_session() if isinstance(storage, RDBStorage) else None
    if not isinstance(session, HeldSession):
        yield
        return
    session.held = True
    try:
        yield
    except BaseException:
        session.held = False
        session.rollback()
        raise
    session.held = False
    session.commit()
