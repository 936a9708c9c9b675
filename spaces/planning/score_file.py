"""Scores in a run folder: a file of JSON lines that only grows, so that a kill loses one line.

The first line says what the scores are of. Each other line is one edit, with what it costs and
saves or with the reason why it could not be scored, or one whole plan that was measured. An edit's
latency, where it was measured, is a line of its own. Only lines that are whole count.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from sharetune.spaces.errors import RunError
from sharetune.spaces.evaluator import Exchange, PlanScore, Sizes
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import Edit
from sharetune.spaces.planning.solving import Scored
from sharetune.spaces.settings import one_door

VERSION = 1
"""Number of this form of the file; another one is refused."""


@dataclass(frozen=True)
class ScoresHeader:
    """Header of the file: the model, data and space that its scores are of.

    `depends` has digests by name (model, data, space ...) which must be equal for scores to go on;
    `unshared` has the unshared model's sizes; `config` is the study file as plain data; `lacking`
    names, by stack, the parts that no plan changes.
    """

    depends: Mapping[str, str]
    unshared: Sizes
    config: dict[str, Any]
    lacking: Mapping[str, list[str]] = field(default_factory=dict)


class Timed(NamedTuple):
    """Median latency of a model with one edit, and of the unshared one in turns with it, in ms."""

    ms: float
    unshared_ms: float


@dataclass(frozen=True)
class StoredScores:
    """All that a file holds: scores of the space's edits and their losses by key, scores of edits
    `outside` the space, of which rivals are made, edits that could not be scored with the reason,
    whole plans measured, of which one is the unshared model, latencies of edits by key, and scores
    of exchanged layers."""

    header: ScoresHeader
    scored: dict[str, Scored] = field(default_factory=dict)
    outside: dict[str, Scored] = field(default_factory=dict)
    losses: dict[str, float | None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    plans: dict[SharingPlan, PlanScore] = field(default_factory=dict)
    latency: dict[str, Timed] = field(default_factory=dict)
    exchanges: dict[Exchange, PlanScore] = field(default_factory=dict)

    def timed(self) -> "StoredScores":
        """Return the scores with ``latency_ms`` among the sizes, if all edits were timed.

        An edit saves its own part of the unshared model's median latency.
        """
        if not self.latency or not self.scored.keys() <= self.latency.keys():
            return self
        whole = median(one.unshared_ms for one in self.latency.values())
        saved = {key: whole * (1 - one.ms / one.unshared_ms) for key, one in self.latency.items()}
        scored = {
            key: replace(one, saved={**one.saved, "latency_ms": saved[key]})
            for key, one in self.scored.items()
        }
        unshared = {**self.header.unshared, "latency_ms": whole}
        return replace(self, scored=scored, header=replace(self.header, unshared=unshared))

    def is_known(self, edit: Edit) -> bool:
        """Return whether an edit has a score."""
        return edit.key() in self.scored or edit.key() in self.outside

    @property
    def all_scored(self) -> list[Scored]:
        """The scores of all edits, of the space's and of those outside."""
        return [*self.scored.values(), *self.outside.values()]


class ScoreFile:
    """The file at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether a whole first line is there."""
        return bool(self._lines())

    def read(self) -> StoredScores:
        """Read all whole lines. Raises :class:`RunError` if there are none, or one is damaged."""
        lines = self._lines()
        if not lines:
            raise RunError(
                f"{self.path.parent} holds no scores",
                f"sharetune score STUDY.yaml --out {self.path.parent}",
            )
        with one_door(str(self.path), RunError, "remove it, and score again"):
            return _read(json.loads(lines[0]), map(json.loads, lines[1:]))

    def begin(self, header: ScoresHeader) -> None:
        """Write the first line of a new file."""
        self.path.write_text("")
        self.add({"version": VERSION, **vars(header)})

    def cut_partial_line(self) -> None:
        """Remove what a kill left of a line."""
        whole = sum(len(line) + 1 for line in self._lines())
        os.truncate(self.path, whole)

    def add_score(self, scored: Scored, loss: float | None, *, outside: bool = False) -> None:
        """Append the score of an edit, which may be `outside` the study's space."""
        self.add({**scored.written(), "loss": loss, **({"outside": True} if outside else {})})

    def add_refusal(self, edit: Edit, reason: str) -> None:
        """Append the reason why an edit has no score."""
        self.add({"edit": edit.written(), "refused": reason})

    def add_latency(self, edit: Edit, timed: Timed) -> None:
        """Append the latency of the model with an edit."""
        self.add({"edit": edit.written(), "ms": timed.ms, "unshared_ms": timed.unshared_ms})

    def add_exchange(self, exchange: Exchange, score: PlanScore) -> None:
        """Append the score of the model with two layers exchanged."""
        self.add({"exchange": exchange.written(), **vars(score)})

    def add_plan(self, plan: SharingPlan, score: PlanScore) -> None:
        """Append the score of a whole plan."""
        known = {name: value for name, value in vars(score).items() if value is not None}
        self.add({"plan": plan.written(), **known})

    def add(self, line: Mapping[str, Any]) -> None:
        """Append one line, which survives a power cut."""
        with self.path.open("ab") as file:
            file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[bytes]:
        """All whole lines."""
        try:
            return self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []


NUMBERS = {"cost", "loss", "distance", "ms", "unshared_ms", "examples"}
"""Keys of a line that hold a number or null."""

SIZES = {"saved", "unshared"}
"""Keys of a line that hold numbers by name."""


def _refuse_texts(line: Mapping[str, Any]) -> None:
    """Raise :class:`TypeError` if what must be a finite number is something else."""
    found = {key: line[key] for key in NUMBERS & line.keys() if line[key] is not None}
    for key in SIZES & line.keys():
        found |= {f"{key}.{name}": value for name, value in dict(line[key]).items()}
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise TypeError(f"{key} is no number")


def _read(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> StoredScores:
    _refuse_texts(first)
    version = first.pop("version")
    if version != VERSION:
        raise ValueError(f"it is of version {version}, and this ShareTune reads {VERSION}")
    header = ScoresHeader(**first)
    if not all(isinstance(parts, list) for parts in dict(header.lacking).values()):
        raise TypeError("lacking holds no lists of parts")
    found = StoredScores(header)
    for line in rest:
        _refuse_texts(line)
        if "plan" in line:
            plan = SharingPlan.model_validate(line.pop("plan"))
            found.plans[plan] = PlanScore(**line)
            continue
        if "exchange" in line:
            exchange = Exchange.read(line.pop("exchange"))
            found.exchanges[exchange] = PlanScore(**line)
            continue
        key = json.dumps(line["edit"], sort_keys=True, separators=(",", ":"))
        if "refused" in line:
            found.refused[key] = line["refused"]
        elif "ms" in line:
            found.latency[key] = Timed(line["ms"], line["unshared_ms"])
        else:
            (found.outside if line.get("outside") else found.scored)[key] = Scored.read(line)
            found.losses[key] = line["loss"]
            found.refused.pop(key, None)
    _refuse_other_sizes(found)
    return found


def _refuse_other_sizes(stored: StoredScores) -> None:
    """Raise :class:`ValueError` if edits save what the unshared model is not said to have."""
    unshared = stored.header.unshared
    saved = {name for scored in stored.scored.values() for name in scored.saved}
    for name in sorted(saved):
        if not unshared.get(name, 0) > 0:
            raise ValueError(f"the unshared model has no {name}")
