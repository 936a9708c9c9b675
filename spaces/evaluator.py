"""The contract between a search and what trains and measures its candidates.

A search knows an :class:`Evaluator` by these types alone: `trainers/evaluation/` has the real one,
and a test's fake needs no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from sharetune.spaces.latency import Latencies, LatencyRequest
from sharetune.spaces.pace import Pace
from sharetune.spaces.recipe import Candidate, Recipe
from sharetune.spaces.run_folder import TrialFolder
from sharetune.spaces.stack_shape import StackShape

PREDICTIONS = 1024
"""Predictions that plans are scored on by default: sums of effects on 1,024 tokens were within 15 %
of what whole plans did on others, and a pass over more takes longer for each of hundreds of
edits."""

Sizes = dict[str, float]
"""Numbers that are exact before training, by name: parameters, stack_parameters, bytes, flops,
effective_ratio, cache_bytes, and the exact objectives that plugins add."""

Metrics = dict[str, float]
"""Numbers that training leads to, by objective name: accuracy, eval_loss, ..."""


@dataclass(frozen=True)
class Job:
    """One candidate to train, as trial `number`, in `folder`.

    It reports its metrics after each of `rungs`, rising fractions of its training. A `final` one
    trains a finalist again, on a further seed and `longer` times as long as the search did, and is
    measured on the test split too.
    """

    number: int
    candidate: Candidate
    folder: TrialFolder
    rungs: tuple[float, ...] = ()
    final: bool = False
    longer: float = 1.0


@dataclass(frozen=True)
class JobResources:
    """Resources that a worker may use for a job.

    `threads` of the processor; each batch is trained in `accumulation` times as many equal parts as
    its recipe says, or the fewest more that divide it, which need less memory; a checkpoint is left
    every `checkpoint_s` seconds (None: never). `team` is this process's place among several that
    train the job together (`data_parallel.py`), or None; with `shard` these divide weights and
    optimiser state among them (`sharding.py`).
    """

    threads: int = 1
    accumulation: int = 1
    checkpoint_s: float | None = None
    team: object | None = None
    shard: bool = False


class Listener(Protocol):
    """The receiver of a running job's rungs and steps."""

    def rung(self, rung: int, metrics: Metrics) -> bool:
        """Note the metrics at `rung`, counted from 0; return False to stop the training."""
        ...

    def beat(self, in_step: bool) -> None:
        """Note that a training step begins (True) or has ended (False)."""
        ...


class Unheard:
    """A listener that lets every training go on."""

    def rung(self, rung: int, metrics: Metrics) -> bool:
        """Return True."""
        return True

    def beat(self, in_step: bool) -> None:
        """Do nothing."""


MOST_DENSE_CLASSES = 30
"""Classes up to which a confusion matrix is stored, and shown, whole: it has 900 counts at most."""


def stored_confusion(matrix: list[list[int]]) -> list[list[int]] | dict[str, Any]:
    """Return a confusion matrix as it is stored: ``{"classes", "cells"}`` where it is large.

    The cells are ``[row, column, count]``, of the counts that are not 0.
    """
    if len(matrix) <= MOST_DENSE_CLASSES:
        return matrix
    cells = [[i, j, count] for i, row in enumerate(matrix) for j, count in enumerate(row) if count]
    return {"classes": len(matrix), "cells": cells}


MOST_PARTS = 100
"""Parts of a split whose sums are kept: an interval over more is hardly another."""

PartSums = dict[str, list[float]]
"""Sums over each of some consecutive parts of a split, by what is summed: nats, predictions, ..."""


def part_sums(**columns: Sequence[float]) -> PartSums | None:
    """Sum numbers of examples (blocks, texts) over consecutive parts of a split, at most 100.

    Each column has one number an example, in order. None for fewer than two examples.
    """
    examples = min(len(column) for column in columns.values())
    if examples < 2:
        return None
    parts = min(examples, MOST_PARTS)
    cuts = [examples * part // parts for part in range(parts + 1)]
    return {
        name: [round(float(sum(column[a:b])), SUM_DIGITS) for a, b in pairwise(cuts)]
        for name, column in columns.items()
    }


SUM_DIGITS = 4
"""Decimals of a part's sums: far below what two parts differ by."""


@dataclass(frozen=True)
class Scores:
    """A model's metrics on one split.

    A classification also has the report by class, and the confusion matrix, whose rows are true
    labels and whose columns are predicted ones. `part_sums` has what the metrics are made of
    (`Objective.ratio`), by which it is known how sure they are.
    """

    metrics: Metrics
    per_class: dict[str, dict[str, float]] | None = None
    confusion: list[list[int]] | None = None
    part_sums: PartSums | None = None

    def written(self) -> dict[str, Any]:
        """Return the same as plain data, without missing parts.

        Of a confusion matrix of more than 30 classes only the counts that are not 0 are kept.
        """
        confusion = None if self.confusion is None else stored_confusion(self.confusion)
        found = vars(self) | {"confusion": confusion}
        return {key: value for key, value in found.items() if value is not None}


AS_TRAINED = "as trained"
"""The number format in which a model was trained."""


@dataclass(frozen=True)
class Measured:
    """Results of a finished training.

    `scores` are of the split that the search selects on, `test` those of the test split where that
    is another. `curve` holds ``[step, training loss]``, `seconds` the durations of "train",
    "evaluate" and "total", `circumstances` where the numbers come from: seed, steps, device, ...;
    `by_format` the metrics of the same weights by number format, :data:`AS_TRAINED` being their
    own.
    """

    scores: Scores
    curve: list[list[float]]
    seconds: dict[str, float]
    circumstances: dict[str, Any]
    test: Scores | None = None
    by_format: dict[str, Metrics] = field(default_factory=dict)

    def written(self) -> dict[str, Any]:
        """Return the same as the attributes of a trial (`results/reading/attributes.py`)."""
        test = {} if self.test is None else {"test": self.test.written()}
        test |= {"by_format": self.by_format} if self.by_format else {}
        own = {"curve": self.curve, "seconds": self.seconds, "circumstances": self.circumstances}
        return {**self.scores.written(), **own, **test}


@dataclass(frozen=True)
class PlanScore:
    """How far an untrained plan moves a model from its unshared self.

    `distance` is in nats a prediction (KL divergence), or the fraction of the outputs' variance
    where there are no logits; `loss` is the task's, where the examples have labels. It was measured
    on `examples` training examples.
    """

    distance: float
    loss: float | None = None
    examples: int | None = None


@dataclass(frozen=True)
class Exchange:
    """Two layers (0-based, ascending) of a stack that take each other's place.

    No plan makes it, as it saves nothing; what it costs tells which layers are alike enough to
    share, apart from what either costs in place of both.
    """

    stack: str
    layers: tuple[int, int]

    def written(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"stack": self.stack, "layers": list(self.layers)}

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Exchange":
        """Read what :meth:`written` returns."""
        one, other = written["layers"]
        return cls(written["stack"], (one, other))

    def __str__(self) -> str:
        return f"{self.stack} {self.layers[0]} and {self.layers[1]} exchanged"


@dataclass(frozen=True)
class Exchanged:
    """The unshared model with two layers exchanged, and the recipe by which examples are cut."""

    exchange: Exchange
    recipe: Recipe

    @property
    def plan(self) -> Exchange:
        """The exchange, under the name that messages use."""
        return self.exchange


Untried = Candidate | Exchanged
"""A candidate, or an exchange, that is scored without training."""


class Evaluator(Protocol):
    """A model and a task, prepared once a study, that trains and measures candidates.

    It is picklable; its caches are made anew in each process. `stacks` are the model's stacks by
    name, `widths` their hidden sizes, `rows` counts the examples of each split, `labels` are a
    classification's, in order. `pretrained` says whether candidates start from trained weights, not
    from random ones. `identity` has digests of what scores and results depend on, by
    name: the ``model``'s weights, the training ``data``, and what trials are ``measured on``.
    """

    @property
    def stacks(self) -> Mapping[str, StackShape]: ...
    @property
    def widths(self) -> Mapping[str, int]: ...
    @property
    def identity(self) -> Mapping[str, str]: ...
    @property
    def rows(self) -> Mapping[str, int]: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def pretrained(self) -> bool: ...

    def refuse(self, candidates: Sequence[Candidate]) -> None:
        """Raise :class:`SharetuneError` for a candidate that could not be trained or compressed."""
        ...

    def steps(self, recipe: Recipe) -> int:
        """Return the optimiser steps of a training."""
        ...

    def rehearse(self, candidate: Candidate, resources: JobResources) -> Pace | None:
        """Train the unshared model on two batches by the candidate's recipe, and keep nothing.

        None if memory ran out, which it may not do on a worker. Raises :class:`SharetuneError` that
        says why no trial could be trained.
        """
        ...

    def sizes(self, candidate: Candidate) -> Sizes:
        """Return the numbers that are exact before training. Raises :class:`PlanError`."""
        ...

    def score(self, candidate: Untried, resources: JobResources) -> PlanScore:
        """Measure the distance of a plan, untrained, or of exchanged layers on training examples.

        Raises :class:`SharetuneError` if the plan does not fit, or nothing can be compared.
        """
        ...

    def evaluate(self, job: Job, resources: JobResources, listener: Listener) -> Measured:
        """Train, measure and save the job's candidate.

        Raises :class:`CandidateFault` if it cannot be trained, :class:`OutOfMemory` if memory runs
        out, and :class:`StoppedAtRung` if the listener says to stop.
        """
        ...

    def assist(self, job: Job, resources: JobResources) -> None:
        """Train the job together with the leader of `resources.team`, which evaluates it."""
        ...

    def latency(self, model: Path | Candidate, request: LatencyRequest) -> Latencies:
        """Measure a saved model, or a candidate's architecture untrained, on a quiet device."""
        ...


def plain_fields(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance by name, without what was cached on it."""
    return {each.name: instance.__dict__[each.name] for each in fields(instance)}
