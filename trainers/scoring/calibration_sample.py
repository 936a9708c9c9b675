"""Choose the training examples on which plans are scored."""

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from sharetune.spaces.errors import DataError
from sharetune.trainers.tasks.base import Split

PREDICTIONS = 2048
"""Predictions that are enough: on 2,048 tokens effects of edits were within 5 % of those on others,
and a forward pass over more would take as much longer for each of hundreds of edits."""

EXAMPLES = 64
"""Most examples, for tasks with few predictions in each, such as a class."""

BATCHES = 4
"""Batches that the examples are divided into, which bounds the memory that logits take."""


def calibration_batches(split: Split) -> list[dict[str, Tensor]]:
    """Collate examples spread over a training split, with labels, in `BATCHES` batches.

    Raises :class:`DataError` if there is not one example for each batch.
    """
    total = len(split.rows)
    if total < BATCHES:
        raise DataError(
            f"scoring takes at least {BATCHES} training examples of the recipe's max_length, but "
            f"the split has {total}",
            "give more training data, or set space.recipe.max_length lower",
        )
    per_example = _predictions(split.rows[0])
    count = min(total, EXAMPLES, max(BATCHES, PREDICTIONS // per_example))
    rows = [split.rows[number * total // count] for number in range(count)]
    ends = [number * count // BATCHES for number in range(BATCHES + 1)]
    parts = [rows[start:end] for start, end in pairwise(ends)]
    return [dict(split.collate(part)) for part in parts]


def _predictions(row: Mapping[str, object]) -> int:
    """Number of predictions of an example: its labels, which are one for a whole example."""
    labels = row.get("labels")
    return max(1, len(labels)) if isinstance(labels, list) else 1
