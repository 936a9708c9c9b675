"""Small studies in real Optuna storages, as a search would leave them behind."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from sharetune.results.reading import attributes as record
from sharetune.spaces import Candidate, Recipe, SharingPlan

BEGIN = datetime(2026, 1, 1, 12, 0)
STUDY = {
    record.OBJECTIVES: ["accuracy", "parameters"],
    record.REFERENCE: {"accuracy": 0.5, "parameters": 200.0},
    record.MODEL: {"name": "tiny", "stacks": {"layers": 6}, "labels": ["no", "yes"]},
    record.CIRCUMSTANCES: {"versions": {"optuna": "5.0.0"}, "dirty": False, "threads": 2},
    record.CONFIG: {"name": "demo"},
}


def candidate(plan: SharingPlan | None = None, **recipe: Any) -> dict[str, Any]:
    """A candidate as the storage holds it."""
    return Candidate(plan=plan or SharingPlan(), recipe=Recipe(**recipe)).written()


def complete(
    accuracy: float, parameters: float, plan: SharingPlan | None = None, **attributes: Any
) -> dict[str, Any]:
    """A COMPLETE trial with the facts and metrics of a real one."""
    return {
        "values": [accuracy, parameters],
        record.CANDIDATE: candidate(plan),
        record.FACTS: {"parameters": parameters, "bytes": 4 * parameters, "effective_ratio": 0.25},
        record.METRICS: {"accuracy": accuracy, "macro_f1": accuracy},
        record.SECONDS: {"train": 4.0, "evaluate": 1.0, "total": 5.5},
        **attributes,
    }


def ended(state: TrialState, **attributes: Any) -> dict[str, Any]:
    """A trial without values."""
    return {"state": state, record.CANDIDATE: candidate(), **attributes}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder of the given trials; keywords replace attributes of the study, and
    None removes one."""

    def make(*trials: dict[str, Any], folder: str = "run", **study: Any) -> Path:
        return write_run(tmp_path / folder, *trials, **study)

    return make


def write_run(
    run: Path, *trials: dict[str, Any], latency: dict[int, Any] | None = None, **study: Any
) -> Path:
    """A run folder as a search would leave it; see `make_run`."""
    run.mkdir(parents=True)
    make_study(f"sqlite:///{run / record.STORAGE}", *trials, latency=latency, **study)
    return run


def make_study(
    storage: str | None,
    *trials: dict[str, Any],
    latency: dict[int, Any] | None = None,
    **study: Any,
) -> optuna.Study:
    """The same study in any storage; None keeps it in memory."""
    stored = optuna.create_study(
        storage=_with_tables(storage),
        study_name=study.pop("name", "demo"),
        directions=study.pop("directions", ["maximize", "minimize"]),
    )
    measured = {f"{record.LATENCY}{n}": value for n, value in (latency or {}).items()}
    for key, value in {**STUDY, **study, **measured}.items():
        if value is not None:
            stored.set_user_attr(key, value)
    stored.add_trials([_trial(number, trial) for number, trial in enumerate(trials)])
    return stored


def _with_tables(storage: str | None) -> RDBStorage | str | None:
    """Begin a SQLite file as a copy of an empty one: making Optuna's tables takes far longer."""
    if storage is None or not storage.startswith("sqlite:///"):
        return storage
    Path(storage.removeprefix("sqlite:///")).write_bytes(_empty_storage())
    return RDBStorage(storage, skip_compatibility_check=True, skip_table_creation=True)


@lru_cache(maxsize=1)
def _empty_storage() -> bytes:
    with TemporaryDirectory() as folder:
        RDBStorage(f"sqlite:///{folder}/empty.db").engine.dispose()
        return (Path(folder) / "empty.db").read_bytes()


def _trial(number: int, trial: dict[str, Any]) -> optuna.trial.FrozenTrial:
    attributes = {key: value for key, value in trial.items() if key not in ("state", "values")}
    state = trial.get("state", TrialState.COMPLETE)
    frozen = create_trial(state=state, values=trial.get("values"), user_attrs=attributes)
    frozen.datetime_start = BEGIN + timedelta(seconds=10 * number)
    if state.is_finished():
        frozen.datetime_complete = BEGIN + timedelta(seconds=10 * number + 9)
    return frozen
