"""Write the per-class report and the confusion matrix of a trial as texts."""

from dataclasses import dataclass
from typing import Any

from sharetune.results.formatting import percent
from sharetune.spaces.evaluator import MOST_DENSE_CLASSES


@dataclass(frozen=True)
class ClassRow:
    """One class as texts: its name, precision, recall and F1 in percent, and its examples."""

    label: str
    precision: str
    recall: str
    f1: str
    support: str


@dataclass(frozen=True)
class Square:
    """A cell of the confusion matrix: its count, and its share (0..1) of the row."""

    count: int
    share: float
    correct: bool


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: rows are true labels, columns predicted ones."""

    labels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Square, ...]], ...]


def class_rows(per_class: object) -> list[ClassRow]:
    """Write the per-class report, one row for each class; empty where none is stored."""
    if not isinstance(per_class, dict):
        return []
    return [
        ClassRow(
            str(label),
            _percent(row.get("precision")),
            _percent(row.get("recall")),
            _percent(row.get("f1")),
            f"{row.get('support', 0):g}",
        )
        for label, row in per_class.items()
        if isinstance(row, dict)
    ]


def confusion_of(matrix: Any, labels: Any) -> Confusion | None:
    """Build the confusion matrix; None where none is stored, or of more than 30 classes."""
    if not isinstance(matrix, list) or not 0 < len(matrix) <= MOST_DENSE_CLASSES:
        return None
    if not all(isinstance(row, list) and len(row) == len(matrix) for row in matrix):
        return None
    known = isinstance(labels, list | tuple) and len(labels) == len(matrix)
    names = tuple(map(str, labels)) if known else tuple(map(str, range(len(matrix))))
    rows = tuple(
        (name, _squares(i, row)) for i, (name, row) in enumerate(zip(names, matrix, strict=True))
    )
    return Confusion(names, rows)


def _squares(index: int, row: list[int]) -> tuple[Square, ...]:
    total = sum(row) or 1
    return tuple(Square(count, count / total, j == index) for j, count in enumerate(row))


def _percent(value: object) -> str:
    return percent(value) if isinstance(value, int | float) else ""
