"""Read a study as a table, one row for each trial, from the run folder's Optuna storage.

Reading never changes the storage and may happen at any time, also while a search writes it.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from sharetune.results.reading import attributes as record
from sharetune.results.reading.location import Location, first_line
from sharetune.results.reading.origins import chosen_by
from sharetune.results.reading.stored_plans import preset_name, stored_plan
from sharetune.results.reading.trial import Trial
from sharetune.spaces.errors import RunError, SharetuneError
from sharetune.spaces.layer_text import unchanged_text
from sharetune.spaces.objectives import OBJECTIVES, Objective, quality_of
from sharetune.spaces.paths import relocated
from sharetune.spaces.settings import one_door

LATENCY_NUMBERS = ("ms", "low_ms", "high_ms", "ratio", "ratio_low", "ratio_high")
"""Ends of the columns of one latency."""

NUMBERS = (
    "effective_ratio",
    *(
        f"{form}latency_{number}"
        for form in ("", "materialised_", "batch_")
        for number in LATENCY_NUMBERS
    ),
    "batch_size",
    "latency_drift",
    "latency_preempted",
    "latency_unshared_ms",
    "train_s",
    "evaluate_s",
    "total_s",
)
"""Columns of numbers that every table has, whatever the study's objectives."""

LATENCY = "latency_ms"
"""The quiet objective that has columns of its own."""

MEASURED_DATA = (
    *(record.PER_CLASS, record.CONFUSION, record.CURVE, record.RUNGS, record.TEST),
    *(record.BY_FORMAT, record.PART_SUMS),
)
"""Attributes of a trial that become columns of plain data."""


@dataclass(frozen=True, eq=False)
class StudyRecord:
    """A study as read from its run folder: configuration, model, circumstances and trials.

    `frame` has one row for each trial, see :func:`load`. `rows` is the number of examples of each
    split, `identity` the digests of weights and data, and `reference` the hypervolume's fixed
    reference point by objective; each is empty where the study states none. `known` are all
    objectives, with those of the study's task and plugins. `shown_path` is the folder as a report
    for others names it; empty: as it is.
    """

    path: Path
    name: str
    objectives: tuple[Objective, ...]
    reference: dict[str, float]
    model: dict[str, Any]
    circumstances: dict[str, Any]
    config: dict[str, Any]
    frame: pd.DataFrame
    rows: dict[str, int] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)
    known: tuple[Objective, ...] = tuple(OBJECTIVES.values())
    scoring: dict[str, Any] = field(default_factory=dict)
    shown_path: str = ""

    @property
    def folder(self) -> str:
        """The run folder as a report and its commands name it, below the working directory."""
        if self.shown_path:
            return self.shown_path
        absolute, here = self.path.resolve(), Path.cwd()
        return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)

    @property
    def trained(self) -> list[Objective]:
        """The trained objectives that may have been measured, in order of registration."""
        return [objective for objective in self.known if objective.source == "trained"]

    @property
    def quiet(self) -> list[Objective]:
        """The quiet objectives that may have been measured, latency left out."""
        return [o for o in self.known if o.source == "quiet" and o.name != LATENCY]

    @property
    def selected_on(self) -> str:
        """Return the split that the search measured on: ``validation`` or ``test``."""
        return "validation" if "validation" in self.rows else "test"

    @property
    def quality(self) -> Objective:
        """Return the objective that says how good a model is."""
        return quality_of(self.objectives)

    @property
    def unchanged(self) -> list[str]:
        """Return one sentence for each stack that has parts which no plan changes."""
        return unchanged_text(_mapping(self.model, "lacking"))

    @property
    def has_reference(self) -> bool:
        """Return whether the reference point has a value for every objective."""
        return {objective.name for objective in self.objectives} <= set(self.reference)


def load(run: Path | str) -> pd.DataFrame:
    """Read the trials of a run folder, one row each, in order of their numbers.

    Columns that are missing for a trial hold NaN, NaT or None:

    - ``number``, ``state``, ``anchor``, ``chosen_by`` (the rule that chose the candidate),
      ``earlier`` (the earlier study's trial it was taken from), ``plan`` (short text),
      ``same_as``, ``finalist`` (the trial that this one trains again), ``reason``,
      ``error_kind``, ``error_message``, ``error_traceback``, ``values``
    - every fact and metric by its name: ``accuracy`` (0..1), ``parameters``, ``bytes``, ...,
      ``effective_ratio`` (0..1)
    - ``latency_ms`` as stored, ``latency_low_ms`` and ``latency_high_ms`` (95 % interval),
      ``latency_ratio`` (to unshared), ``latency_ratio_low``, ``latency_ratio_high``, and the
      same six materialised, as ``materialised_latency_ms``, ...
    - of each export that was timed in its runtime, such as ``onnx``, the same six against the
      unshared model there: ``onnx_latency_ms``, ..., ``onnx_latency_unshared_ms``; of what writes
      text ``onnx_prefill_latency_ms``, ..., and ``onnx_decode_latency_ms``, ...;
      ``latency_refused``: by format why it cannot hold the model
    - what else was measured on a quiet device, such as ``peak_memory``
    - the same six of a batch of ``batch_size`` as stored, as ``batch_latency_ms``, ...
    - ``latency_drift`` (a fraction): how much the unshared model slowed down meanwhile;
      ``latency_preempted``: preemptions by the system for each timed pass
    - ``latency_unshared_ms``, measured in turns with the trial, and ``latency_conditions``
    - ``train_s``, ``evaluate_s``, ``total_s``, ``started``, ``completed``
    - ``recipe.<key>``, ``compression.<key>``, and as plain data ``candidate``, ``per_class``,
      ``confusion`` (of more than 30 labels ``{"classes", "cells"}``), ``curve``, ``rungs``,
      ``by_format`` (metrics of the same weights, quantised), ``part_sums`` (what metrics are made
      of, summed over parts of the split), ``test`` and ``circumstances``

    Raises:
        RunError: if `run` holds no study, or one that cannot be read.
    """
    return read_study(run).frame


def read_study(run: Path | str) -> StudyRecord:
    """Read the study of a run folder.

    Raises:
        RunError: if `run` holds no study, or one that cannot be read.
    """
    run = Path(run)
    with one_run(run), _opened(Location.of(run)) as study:
        return study_record(run, study)


def one_run(*runs: Path | str) -> AbstractContextManager[None]:
    """Turn any failure of showing these run folders into one :class:`RunError`."""
    return one_door(f"the run {', '.join(map(str, runs))}", RunError, _RETRY)


def study_record(run: Path, study: optuna.Study) -> StudyRecord:
    """Read an open Optuna study, from any storage; `run` is the folder of its weights."""
    attributes = study.user_attrs
    known = _known(attributes.get(record.OBJECTIVE_SPECS) or ())
    objectives = _objectives(attributes.get(record.OBJECTIVES), study.directions, known)
    trials = study.get_trials(deepcopy=False)
    rows = [_row(Trial.of(trial), attributes, objectives) for trial in trials]
    return StudyRecord(
        path=run,
        name=study.study_name,
        objectives=objectives,
        reference=_mapping(attributes, record.REFERENCE),
        model=_mapping(attributes, record.MODEL),
        circumstances=_mapping(attributes, record.CIRCUMSTANCES),
        config=_located(_mapping(attributes, record.CONFIG), attributes, run),
        frame=_frame(rows, [*objectives, *(o for o in known.values() if o.name != LATENCY)]),
        rows=_mapping(attributes, record.ROWS),
        identity=_mapping(attributes, record.IDENTITY),
        known=tuple(known.values()),
        scoring=_mapping(attributes, record.SCORING),
    )


@contextmanager
def _opened(location: Location) -> Iterator[optuna.Study]:
    if not location.exists:
        raise RunError(
            f"a run folder holds {record.STORAGE}, but there is no {location}",
            "give the folder that `sharetune search` wrote, such as runs/NAME",
        )
    try:
        with location.reading() as database:
            name = location.study or _only_name(database)
            yield optuna.load_study(study_name=name, storage=database)
    except (sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
        raise RunError(f"{location} cannot be read: {first_line(error)}", _RETRY) from error
    except SharetuneError:
        raise
    except (KeyError, ValueError, RuntimeError) as error:
        raise RunError(f"{location} is not the storage of one study: {error}", _RETRY) from error


def _only_name(database: RDBStorage) -> str:
    names: list[str] = [study.study_name for study in database.get_all_studies()]
    if len(names) != 1:
        raise ValueError(f"it holds {len(names)} studies")
    return names[0]


_RETRY = "a file that a search is writing can be read again in a moment; else it is damaged"


def _mapping(attributes: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = attributes.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


def _located(config: dict[str, Any], attributes: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Return `config` with the paths of a project that was moved, together with its `run`."""
    places = _mapping(attributes, record.PLACES)
    if "run" not in places:
        return config
    found: dict[str, Any] = relocated(config, places["run"], str(run.resolve()))
    if "study" in places:
        away = os.path.relpath(places["study"], places["run"])
        found = relocated(found, places["study"], os.path.normpath(run.resolve() / away))
    return found


def _known(specs: Sequence[Mapping[str, Any]]) -> dict[str, Objective]:
    """All objectives by name: the registered ones, and what else the study says of its own."""
    stored = {spec["name"]: Objective.read(spec) for spec in specs}
    return dict(OBJECTIVES) | {name: o for name, o in stored.items() if name not in OBJECTIVES}


def _objectives(
    names: Sequence[str] | None,
    directions: Sequence[StudyDirection],
    known: Mapping[str, Objective],
) -> tuple[Objective, ...]:
    """Return the study's objectives; one that nobody knows is titled by its name, and counts as
    trained, so that it may differ between seeds."""
    names = names or [f"value_{i}" for i in range(len(directions))]
    return tuple(
        known.get(name)
        or Objective(name, name.replace("_", " "), _direction(direction), source="trained")
        for name, direction in zip(names, directions, strict=False)
    )


def _direction(direction: StudyDirection) -> Any:
    return "maximize" if direction == StudyDirection.MAXIMIZE else "minimize"


def _row(trial: Trial, study: Mapping[str, Any], objectives: Sequence[Objective]) -> dict[str, Any]:
    names = [objective.name for objective in objectives]
    values = dict(zip(names, trial.values or (), strict=False))
    return {
        **values,
        **trial.sizes,
        **trial.metrics,
        **_latency(study.get(f"{record.LATENCY}{trial.number}") or {}),
        **{f"{key}_s": value for key, value in trial.seconds.items()},
        **_outcome(trial),
        "chosen_by": chosen_by(trial, _mapping(study, record.CONFIG)),
        **_candidate(trial.written, _stacks(study)),
        **{key: getattr(trial, key) for key in MEASURED_DATA},
        record.CIRCUMSTANCES: trial.circumstances,
    }


def _outcome(trial: Trial) -> dict[str, Any]:
    error = trial.error or {}
    return {
        "number": trial.number,
        "state": trial.state.name,
        "anchor": trial.anchor,
        "earlier": _earlier(trial.earlier or {}),
        "same_as": trial.same_as,
        "finalist": trial.finalist,
        "reason": trial.reason,
        "error_kind": error.get("kind"),
        "error_message": error.get("message"),
        "error_traceback": error.get("traceback"),
        "values": trial.values or None,
        "started": trial.began,
        "completed": trial.ended,
    }


def _earlier(source: Mapping[str, Any]) -> str | None:
    return f"trial {source.get('number')} of {source.get('study')}" if source else None


def _latency(measured: Mapping[str, Any]) -> dict[str, Any]:
    forms = measured.get("forms") or {}
    prefixes = {"stored": "", "materialised": "materialised_"}
    numbers = {
        f"{prefix}latency_{key.removeprefix('median_')}": value
        for prefix, found in (
            *((prefix, forms.get(form) or {}) for form, prefix in prefixes.items()),
            *_in_runtimes(measured),
        )
        for key, value in found.items()
    }
    own = (
        *("forms", "unshared_ms", "onnx_unshared_ms", "throughput", "runtimes", "refused"),
        *("rounds_taken", "drift", "preempted", "quiet"),
    )
    conditions = {key: measured[key] for key in measured if key not in own}
    batch = measured.get("throughput") or {}
    of_batch = (batch.get("forms") or {}).get("stored") or {}
    return {
        **numbers,
        **{f"batch_latency_{key.removeprefix('median_')}": x for key, x in of_batch.items()},
        **(measured.get("quiet") or {}),
        "batch_size": batch.get("batch_size"),
        "latency_drift": measured.get("drift"),
        "latency_preempted": measured.get("preempted"),
        "latency_unshared_ms": measured.get("unshared_ms"),
        "latency_refused": measured.get("refused"),
        "latency_conditions": conditions or None,
    }


def _in_runtimes(measured: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the start of the columns' names, and the numbers, of each use of each export."""
    if "onnx" in (measured.get("forms") or {}):  # as written before there were others
        yield "onnx_", {**measured["forms"]["onnx"], "unshared_ms": measured["onnx_unshared_ms"]}
    for form, uses in (measured.get("runtimes") or {}).items():
        for use, found in uses.items():
            yield f"{form}_" if use == "pass" else f"{form}_{use}_", found


def _stacks(study: Mapping[str, Any]) -> dict[str, int]:
    return _mapping(_mapping(study, record.MODEL), "stacks")


def _candidate(candidate: Mapping[str, object], stacks: Mapping[str, int]) -> dict[str, Any]:
    recipe = _mapping(candidate, "recipe")
    return {
        "candidate": candidate or None,
        "plan": _plan_text(candidate) if "plan" in candidate else None,
        "preset": preset_name(stored_plan(candidate), stacks),
        **_leaves("recipe", recipe),
        **_leaves("compression", _mapping(candidate, "compression")),
    }


def _leaves(name: str, value: object) -> dict[str, Any]:
    """Return the plain values inside a section, by their dotted place."""
    if not isinstance(value, dict):
        return {name: value}
    found = [_leaves(f"{name}.{key}", child) for key, child in value.items()]
    return {place: leaf for part in found for place, leaf in part.items()}


def _plan_text(candidate: Mapping[str, object]) -> str:
    """Write the plan in one line; one that this version cannot read is shown as stored."""
    plan = stored_plan(candidate)
    return json.dumps(candidate["plan"]) if plan is None else str(plan)


def _frame(rows: list[dict[str, Any]], objectives: Sequence[Objective]) -> pd.DataFrame:
    keys = dict.fromkeys(key for row in rows for key in row)
    timed = [k for k in keys if k.partition("_latency_")[2] in (*LATENCY_NUMBERS, "unshared_ms")]
    numbers = dict.fromkeys([*(objective.name for objective in objectives), *NUMBERS, *timed])
    columns = [*dict.fromkeys([*_TEXTS, *numbers, *_DATA, *keys])]
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    for name in numbers:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    for name in ("started", "completed"):
        frame[name] = pd.to_datetime(frame[name])
    frame["number"] = frame["number"].astype("int64")
    for name in ("same_as", "finalist"):
        frame[name] = frame[name].astype("Int64")
    return frame


_TEXTS = (
    *(
        "number",
        "state",
        "anchor",
        "chosen_by",
        "earlier",
        "plan",
        "preset",
        "same_as",
        "finalist",
        "reason",
    ),
    *("error_kind", "error_message", "error_traceback"),
)
_DATA = (
    *("started", "completed", "values", "candidate", "latency_conditions"),
    *(*MEASURED_DATA, record.CIRCUMSTANCES),
)
