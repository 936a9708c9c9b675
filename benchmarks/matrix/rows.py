"""Rows of the matrix: one training each, in CSV files that are the only record."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One training of a method's plan for a `part` (0..1) of the layer stacks.

    `times` is the budget of steps as a multiple of the workload's own, `stack` the fraction of the
    stacks' parameters that the plan stores, `pflop` the cost of the training, `search_pflop` the
    cell's part of the search that found the plan, both in 1e15 FLOP. `metric` names the quality,
    which is of the test split; `plan` is JSON.
    """

    workload: str
    method: str
    part: float
    times: float
    seed: int
    stack: float
    parameters: int
    steps: int
    pflop: float
    search_pflop: float
    metric: str
    quality: float
    eval_loss: float
    seconds: float
    plan: str

    @property
    def cell(self) -> tuple[str, float, float, int]:
        """Return what a training is asked for by: method, part, times and seed."""
        return self.method, self.part, self.times, self.seed

    @property
    def training(self) -> tuple[str, int, int]:
        """Return what its result depends on within a workload: plan, steps and seed."""
        return self.plan, self.steps, self.seed


COLUMNS: dict[str, type] = {field.name: field.type for field in fields(Row)}  # type: ignore[misc]
"""Types of the columns by name, in the files' order."""


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file, or of all files in a folder, in order; none if it is not there."""
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path] if path.exists() else []
    found = []
    for file in files:
        with file.open(newline="") as lines:
            for line in csv.DictReader(lines):
                found.append(Row(**{name: of(line[name]) for name, of in COLUMNS.items()}))
    return found


def add_rows(path: Path, rows: Iterable[Row]) -> None:
    """Append rows to a file, which begins with the names of the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(map(_written, rows))


def _written(row: Row) -> dict[str, object]:
    """Return a row's cells, floats with six digits."""
    return {
        name: f"{value:.6g}" if isinstance(value, float) else value
        for name, value in asdict(row).items()
    }
