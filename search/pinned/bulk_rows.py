"""Writes a trial into Optuna's tables, all rows of a table at once.

Optuna itself looks the trial up before each row, and for a parameter one of its namesakes as well:
of 14 parameters that is 60 queries. Its schema is versioned, and tests hold what is written here to
what Optuna writes.
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
PARAMS = table(
    "trial_params",
    *map(column, ("trial_id", "param_name", "param_value", "distribution_json")),
)
USER_ATTRIBUTES = table("trial_user_attributes", *map(column, ("trial_id", "key", "value_json")))
SYSTEM_ATTRIBUTES = table(
    "trial_system_attributes", *map(column, ("trial_id", "key", "value_json"))
)


def can_write(storage: BaseStorage) -> bool:
    """Say whether `storage` is a database of a version of Optuna whose tables are known."""
    return isinstance(storage, RDBStorage) and is_known("optuna")


def create(storage: RDBStorage, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
    """Writes `trial` as a new one; its id and number. To be called inside a transaction.

    Distributions are not held to those of earlier trials: a study's space never changes.
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
    """Writes attributes that the trial has not yet."""
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    _insert(storage, to, rows)


def _insert(storage: RDBStorage, to: TableClause, rows: list[dict[str, Any]]) -> None:
    if rows:
        storage.scoped_session().execute(insert(to), rows)
