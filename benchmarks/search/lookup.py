"""A table of real trainings that is searched: its space, and an account of the seconds paid.

Needs neither torch nor optuna, so that peers can be run in environments of their own.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pandas as pd

from sharetune.spaces.errors import PlanError
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.space import Space
from sharetune.spaces.stack_shape import StackShape

HERE = Path(__file__).parent
PACKED = HERE / "table.csv.gz"
STEPS, BATCH, RUNGS = 32, 32, (0.125, 0.25, 0.5)
LEARNING_RATES = (0.0003, 0.001, 0.003, 0.006, 0.012)
FORMS: list[Any] = [
    "tie",
    {"bank": {"ratio": 0.25}},
    {"bank": {"ratio": 0.5}},
    {"bank": {"ratio": 0.75}},
    {"basis": {"rank": 16}},
    "drop",
]
PARTS = [["attention", "ffn"], ["attention"], ["ffn"]]
SPACE = Space.model_validate(
    {
        "plan": [
            {
                "layers": {"within": "0..-1", "min": 2},
                "count": {"choices": [1, 0]},
                "parts": {"choices": PARTS},
                "form": {"choices": FORMS},
            }
        ],
        "recipe": {
            "learning_rate": {"choices": list(LEARNING_RATES)},
            "steps": STEPS,
            "batch_size": BATCH,
        },
    }
)
SHAPES = {"layers": StackShape(depth=6, heads=4, neurons=64)}
TARGETS = (0.95, 0.99)
IN_VAIN = 200
"""Asks in a row that are paid nothing, after which a search is given up."""


def distances_of(material: str) -> Path:
    """The file of the distances of a table's plans, untrained; `distances.py` writes it."""
    return HERE / f"distances-{material}.csv"


def read_distances(path: Path) -> dict[str, tuple[float, float]]:
    """The distance of each plan and the seconds that measuring it took."""
    frame = pd.read_csv(path)
    plans = [SharingPlan.model_validate(json.loads(plan)).bound(SHAPES) for plan in frame["plan"]]
    found = zip(frame["distance"], frame["seconds"], strict=True)
    return dict(zip(map(str, plans), found, strict=True))


class Fixed:
    """A trial whose answers are given in turn: categories and fractions of a grid."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return choices[self.answers[name.rsplit(".", 1)[-1]]]

    def suggest_float(self, name: str, low: float, high: float, *, step: Any, log: bool) -> float:
        return self.answers[name.rsplit(".", 1)[-1]]

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        raise NotImplementedError(name)


@dataclass(frozen=True)
class Trained:
    """One training of the table: accuracy and seconds since its start at each rung."""

    accuracy: tuple[float, ...]
    seconds: tuple[float, ...]
    exact: dict[str, float]

    @property
    def point(self) -> tuple[float, float, float]:
        """Its objectives, less being better."""
        return (-self.accuracy[-1], self.exact["parameters"], self.exact["flops"])


class Table:
    """All trainings of seed 0, by plan and learning rate."""

    def __init__(self, path: Path = PACKED) -> None:
        self.distances = read_distances(
            distances_of("digits" if path == PACKED else path.name.split(".")[0])
        )
        frame = pd.read_csv(path)
        self.trained: dict[tuple[str, float], Trained] = {}
        for row in frame[frame["seed"] == 0].to_dict("records"):
            plan = SharingPlan.model_validate(json.loads(row["plan"])).bound(SHAPES)
            self.trained[str(plan), row["learning_rate"]] = Trained(
                tuple(row[f"accuracy_{i}"] for i in range(len(RUNGS) + 1)),
                tuple(row[f"seconds_{i}"] for i in range(len(RUNGS) + 1)),
                {"parameters": row["parameters"], "flops": row["flops"]},
            )
        points = np.array([t.point for t in self.trained.values()])
        self.reference = points.max(axis=0)
        self._hypervolume = moocore.Hypervolume(ref=self.reference)
        self.whole = self._hypervolume(points)

    def of(self, candidate: Candidate) -> Trained:
        """The training of a candidate. Raises :class:`PlanError` if it was never run."""
        key = str(candidate.plan), candidate.recipe.learning_rate
        if key not in self.trained:
            raise PlanError(f"not in the table: {key}", "train it")
        return self.trained[key]

    def share(self, points: Sequence[tuple[float, ...]]) -> float:
        """Hypervolume of `points` as a fraction of the table's."""
        return float(self._hypervolume(np.array(points)) / self.whole)


@dataclass
class Account:
    """Seconds spent and what they bought.

    A search is given up when it asked twice as often as there are candidates, or `IN_VAIN` times
    in a row for what costs nothing: repeats are free here, unlike in a real search.
    """

    table: Table
    spent: float = 0.0
    trainings: int = 0
    front: list[tuple[float, ...]] = field(default_factory=list)
    reached: dict[str, float] = field(default_factory=dict)
    asked: int = 0
    paid_at: int = 0

    def pay(self, seconds: float, *, whole: bool = False) -> None:
        """Seconds of one worker; `whole` if they bring a training to its end."""
        self.spent += seconds
        self.paid_at = self.asked if seconds > 0 else self.paid_at
        self.trainings += whole and seconds > 0

    def earn(self, trained: Trained) -> None:
        """A training that was run to its end."""
        points = np.array([*self.front, trained.point])
        self.front = [tuple(point) for point in points[moocore.is_nondominated(points)]]
        share = self.table.share(self.front)
        for target in TARGETS:
            if share >= target:
                self.reached.setdefault(str(target), round(self.spent, 2))

    @property
    def done(self) -> bool:
        """Whether the last target is reached, or the search is given up."""
        in_vain = self.asked - self.paid_at > IN_VAIN
        much = self.asked > 2 * len(self.table.trained)
        return len(self.reached) == len(TARGETS) or in_vain or much


def lines(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """What searches wrote into these files, as far as they exist."""
    for path in paths:
        if path.exists():
            yield from map(json.loads, path.read_text().splitlines())


Search = Callable[[Table, int, int], Account]
"""Of a table, a seed and a number of workers: what the search has paid."""


def run_missing(
    searches: Mapping[str, Search], seeds: Sequence[int], workers: int, out: Path, table: Table
) -> None:
    """Runs every search with every seed, and appends to `out` what is missing there."""
    done = {(line["method"], line["seed"], line["workers"]) for line in lines([out])}
    for seed, (method, search) in itertools.product(seeds, searches.items()):
        if (method, seed, workers) in done:
            continue
        account = search(table, seed, workers)
        row = {"method": method, "seed": seed, "workers": workers, "reached": account.reached}
        row |= {"trainings": account.trainings, "spent": round(account.spent, 2)}
        row |= {"asked": account.asked}
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
