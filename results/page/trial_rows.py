"""Write all trials as rows of text for the page's table, with a key for sorting each column."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sharetune.results.formatting import duration, plural, quantity, setting, short_title
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.objectives import COSTS, Objective

STATES = {"FAIL": "failed"}
"""Optuna's states that are shown by another word than their own in lower case."""

MOST_NUMBERS = 12
"""Trials listed by number for one reason of failure; of more, only their count is shown."""


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, and a function that writes a value."""

    name: str
    title: str
    numeric: bool
    text: Callable[[Any], str]


@dataclass(frozen=True)
class Cell:
    """A value as text. `key` is the number that a numeric column is sorted by, else empty."""

    text: str
    key: str = ""


@dataclass(frozen=True)
class Mishap:
    """Trials that failed or were pruned for the same reason."""

    state: str
    what: str
    traceback: str
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.numbers[:MOST_NUMBERS]))
        more = len(self.numbers) - MOST_NUMBERS
        return f"{plural(len(self.numbers), 'trial')}: {shown}" + (f", … {more} more" * (more > 0))


def columns(study: StudyRecord) -> list[Column]:
    """List the columns that are not empty: outcome, plan, metrics and settings that vary."""
    frame = study.frame
    numbers = dict.fromkeys([*study.objectives, *study.trained, *COSTS, *study.quiet])
    found = [
        Column("number", "trial", True, str),
        Column("state", "state", False, lambda state: STATES.get(state, state.lower())),
        Column("anchor", "anchor", False, str),
        Column("chosen_by", "chosen by", False, str),
        Column("preset", "preset", False, str),
        Column("plan", "plan", False, str),
        *(_number(objective) for objective in numbers),
        Column("effective_ratio", "effective ratio", True, "{:.2f}".format),
        Column("total_s", "time", True, duration),
        *(_setting(frame, name) for name in _varied(frame)),
        Column("note", "note", False, str),
    ]
    return [column for column in found if column.name == "note" or _tells(frame, column.name)]


def rows(study: StudyRecord, shown: list[Column]) -> list[list[Cell]]:
    """Write one row of cells for each trial, in order of the trials' numbers."""
    notes = [note(trial) for trial in rows_of(study.frame)]
    values = (notes if c.name == "note" else study.frame[c.name].tolist() for c in shown)
    cells = ([_cell(c, value) for value in column] for c, column in zip(shown, values, strict=True))
    return [list(row) for row in zip(*cells, strict=True)]


def note(trial: Row) -> str:
    """Say in one line why a trial has no result of its own; empty for most."""
    if trial.same_as is not None:
        return f"same as trial {trial.same_as}, answered from memory"
    again = "" if trial.finalist is None else _again(trial)
    error = ": ".join(text for text in (trial.error_kind, trial.error_message) if text)
    return "; ".join(text for text in (again, trial.reason, error.split("\n")[0]) if text)


def _again(trial: Row) -> str:
    return f"trial {trial.finalist} again, seed {trial.recipe.get('seed')}"


def mishaps(frame: pd.DataFrame) -> list[Mishap]:
    """Group failed and pruned trials by state and reason, the most frequent reason first."""
    alike: dict[tuple[str, str], list[Row]] = {}
    for trial in rows_of(frame[frame["state"].isin(["FAIL", "PRUNED"])]):
        what = note(trial) or "no reason stored"
        alike.setdefault((trial.state, what), []).append(trial)
    found = [_mishap(state, what, trials) for (state, what), trials in alike.items()]
    return sorted(found, key=lambda mishap: (mishap.state, -len(mishap.numbers)))


def _mishap(state: str, what: str, trials: list[Row]) -> Mishap:
    return Mishap(
        state="failed" if state == "FAIL" else "pruned",
        what=what,
        traceback=trials[0].error_traceback,
        numbers=tuple(trial.number for trial in trials),
    )


def _number(objective: Objective) -> Column:
    return Column(objective.name, short_title(objective), True, lambda x: quantity(objective, x))


def _setting(frame: pd.DataFrame, name: str) -> Column:
    numeric = frame[name].map(_is_number, na_action="ignore").dropna().all()
    text: Callable[[Any], str] = setting if numeric else str
    title = name.removeprefix("recipe.").replace("_", " ")
    return Column(name, title, bool(numeric), text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _varied(frame: pd.DataFrame) -> list[str]:
    settings = [name for name in frame.columns if name.startswith(("recipe.", "compression."))]
    return [name for name in settings if frame[name].astype(str)[frame[name].notna()].nunique() > 1]


def _tells(frame: pd.DataFrame, name: str) -> bool:
    """Return whether a column says anything; states do if any trial is not complete."""
    if name == "state":
        return bool((frame[name] != "COMPLETE").any())
    return name in frame and bool(frame[name].notna().any())


def _cell(column: Column, value: Any) -> Cell:
    if value is None or pd.isna(value):
        return Cell("")
    return Cell(column.text(value), f"{value:.12g}" if column.numeric else "")


def plain(value: object) -> str:
    """Write plain data as text: lists and dicts on one line, None as an empty text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
