"""Name the tables that Optuna would create where they are missing."""

from collections.abc import Collection

from optuna.storages._rdb.models import BaseModel

from sharetune.search.pinned.versions import is_known

VERSION = "alembic_version"
"""The table with the version of the schema, which Optuna's models do not name."""


def missing_tables(present: Collection[str]) -> list[str]:
    """Return Optuna's tables that are not among those `present`, sorted.

    None are known to be missing where this version of Optuna is not known.
    """
    wanted = {*BaseModel.metadata.tables, VERSION}
    return sorted(wanted - set(present)) if is_known("optuna") else []
