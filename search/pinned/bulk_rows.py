"""Write a trial into Optuna's tables, all rows of a table at once.

Optuna itself queries the trial before each row, and for a parameter another one of the same name as
well: 60 queries for 14 parameters. Its schema is versioned, and tests compare what is written here
with what Optuna writes.
"""

import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, create_trial
from sqlalchemy import TableClause, column, insert, select, table

from sharetune.search.pinned.versions import is_known

TRIALS = table("trials", column("trial_id"), column("number"))
"""A row for each trial; only the columns that are read here."""

PARAMS = table(
    "trial_params",
    *map(column, ("trial_id", "param_name", "param_value", "distribution_json")),
)
"""A row for each parameter of a trial."""

USER_ATTRIBUTES = table("trial_user_attributes", *map(column, ("trial_id", "key", "value_json")))
"""Our attributes of a trial (`results/reading/attributes.py`), a row each."""

STUDY_ATTRIBUTES = table("study_user_attributes", *map(column, ("study_id", "key", "value_json")))
"""Our attributes of a study, a row each."""

SYSTEM_ATTRIBUTES = table(
    "trial_system_attributes", *map(column, ("trial_id", "key", "value_json"))
)
"""Optuna's own attributes of a trial, such as its constraints."""


def can_write(storage: BaseStorage) -> bool:
    """Say whether `storage` is a database of a version of Optuna whose tables are known."""
    return isinstance(storage, RDBStorage) and is_known("optuna")


def create(storage: RDBStorage, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
    """Insert `trial` as a new one and return its id and number. Call it inside a transaction.

    Distributions are not compared with those of earlier trials: a study's space never changes.
    """
    bare = create_trial(state=trial.state, values=trial.values)
    trial_id = storage.create_new_trial(study_id, bare)
    params = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distribution.to_internal_repr(trial.params[name]),
            "distribution_json": distribution_to_json(distribution),
        }
        for name, distribution in trial.distributions.items()
    ]
    _insert(storage, PARAMS, params)
    attach(storage, trial_id, trial.user_attrs)
    attach(storage, trial_id, trial.system_attrs, SYSTEM_ATTRIBUTES)
    number = select(TRIALS.c.number).where(TRIALS.c.trial_id == trial_id)
    return trial_id, int(storage.scoped_session().execute(number).scalar_one())


def attach(
    storage: RDBStorage,
    trial_id: int,
    attributes: Mapping[str, Any],
    to: TableClause = USER_ATTRIBUTES,
) -> None:
    """Insert attributes that the trial does not have yet."""
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    _insert(storage, to, rows)


def study_attribute(storage: BaseStorage, study_id: int, key: str) -> Any:
    """Read one attribute of a study from the database; None if there is none.

    Inside a transaction a database is asked by it. Optuna itself reads all attributes.
    """
    if not isinstance(storage, RDBStorage) or not is_known("optuna"):
        return storage.get_study_user_attrs(study_id).get(key)
    columns = STUDY_ATTRIBUTES.c
    query = select(columns.value_json).where(columns.study_id == study_id, columns.key == key)
    found = storage.scoped_session().execute(query).scalar_one_or_none()
    return None if found is None else json.loads(found)


def _insert(storage: RDBStorage, to: TableClause, rows: list[dict[str, Any]]) -> None:
    if rows:
        storage.scoped_session().execute(insert(to), rows)
