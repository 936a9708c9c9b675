"""Read the rows of a study's table, typed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sharetune.results.reading import attributes as record
from sharetune.spaces.evaluator import PartSums
from sharetune.spaces.objectives import Objective

FINAL = "final"
"""Column that only a table with finalists' final numbers has: a :class:`Final` for each of them."""

ON_FRONT = "front"
"""Word of a finalist that no other dominates by its mean."""

OPEN = "open"
"""Word of a finalist that another dominates by its mean, but within the intervals."""

BEATEN = "beaten"
"""Word of a finalist that another dominates beyond the intervals."""

ORDER = (ON_FRONT, OPEN, BEATEN)
"""Order in which finalists are listed."""


@dataclass(frozen=True)
class Standing:
    """A finalist's place: on the front of the means, dominated within the intervals, or beyond.

    `by` is the number of the finalist of best quality that dominates it.
    """

    word: str
    by: int | None = None

    def __str__(self) -> str:
        if self.by is None:
            return "on the front"
        sure = "beyond the intervals" if self.word == BEATEN else "within the intervals"
        return f"dominated by trial {self.by}, {sure}"


@dataclass(frozen=True)
class Final:
    """A finalist's final numbers.

    `low` and `high` are the ends of the 95 % interval of its mean quality, `seeds` the number of
    its completed retrainings, `lost` the number of those that ended without a result.
    """

    standing: Standing
    low: float
    high: float
    seeds: int
    lost: int


@dataclass(frozen=True)
class Row:
    """A trial as its study's table has it; the trained numbers of a finalist are its final ones.

    What is not stored is an empty text, dict or list. `cells` has all columns by name, see
    :func:`sharetune.results.load`.
    """

    number: int
    state: str = "COMPLETE"
    anchor: str = ""
    chosen_by: str = ""
    earlier: str = ""
    plan: str = ""
    preset: str = ""
    same_as: int | None = None
    finalist: int | None = None
    reason: str = ""
    error_kind: str = ""
    error_message: str = ""
    error_traceback: str = ""
    candidate: dict[str, Any] = field(default_factory=dict)
    per_class: dict[str, Any] = field(default_factory=dict)
    confusion: list[Any] = field(default_factory=list)
    part_sums: PartSums = field(default_factory=dict)
    curve: list[Any] = field(default_factory=list)
    rungs: list[Any] = field(default_factory=list)
    test: dict[str, Any] = field(default_factory=dict)
    by_format: dict[str, Any] = field(default_factory=dict)
    circumstances: dict[str, Any] = field(default_factory=dict)
    latency_conditions: dict[str, Any] = field(default_factory=dict)
    latency_refused: dict[str, str] = field(default_factory=dict)
    final: Final | None = None
    cells: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether it was trained and measured to its end, or repeats one that was."""
        return self.state == "COMPLETE"

    @property
    def title(self) -> str:
        """The anchor's name, or else the plan."""
        return self.anchor or self.plan

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of its candidate, as plain data."""
        return _dict(self.candidate.get("recipe"))

    def value(self, what: Objective | str) -> float:
        """Return an objective or another number by its column; NaN where there is none."""
        value = self.cells.get(what if isinstance(what, str) else what.name)
        return float("nan") if value is None or value is pd.NA else float(value)


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """Return the rows of a study's table, typed, in its order."""
    names = [str(name) for name in frame.columns]
    columns = (frame[name].tolist() for name in frame.columns)
    return [_row(dict(zip(names, cells, strict=True))) for cells in zip(*columns, strict=True)]


def _row(cells: Mapping[str, Any]) -> Row:
    final = cells.get(FINAL)
    return Row(
        number=cells["number"],
        state=cells["state"],
        anchor=_text(cells[record.ANCHOR]),
        chosen_by=_text(cells.get("chosen_by")),
        earlier=_text(cells[record.EARLIER]),
        plan=_text(cells["plan"]),
        preset=_text(cells["preset"]),
        same_as=_count(cells[record.SAME_AS]),
        finalist=_count(cells[record.FINALIST]),
        reason=_text(cells[record.REASON]),
        error_kind=_text(cells["error_kind"]),
        error_message=_text(cells["error_message"]),
        error_traceback=_text(cells["error_traceback"]),
        candidate=_dict(cells[record.CANDIDATE]),
        per_class=_dict(cells[record.PER_CLASS]),
        confusion=_list(cells[record.CONFUSION]),
        part_sums=_dict(cells.get(record.PART_SUMS)),
        curve=_list(cells[record.CURVE]),
        rungs=_list(cells[record.RUNGS]),
        by_format=_dict(cells.get(record.BY_FORMAT)),
        test=_dict(cells[record.TEST]),
        circumstances=_dict(cells[record.CIRCUMSTANCES]),
        latency_conditions=_dict(cells["latency_conditions"]),
        latency_refused=_dict(cells.get("latency_refused")),
        final=final if isinstance(final, Final) else None,
        cells=cells,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
