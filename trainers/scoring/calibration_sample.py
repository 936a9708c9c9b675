"""Choose the training examples on which plans are scored."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import PREDICTIONS
from sharetune.trainers.tasks.base import Split

EXAMPLES = 64
"""Most examples, for tasks with few predictions in each, such as a class; and those on which
activations are recorded, since more would change the choice of units little."""

BATCHES = 4
"""Batches that the examples are divided into, which bounds the memory that logits take."""


def calibration_rows(total: int) -> range:
    """Return the numbers of the examples, of `total`, on which activations are recorded."""
    every = max(1, total // EXAMPLES)
    return range(0, min(total, every * EXAMPLES), every)


def scoring_batches(
    split: Split, used: Collection[int] = (), predictions: int = PREDICTIONS
) -> list[dict[str, Tensor]]:
    """Collate examples spread over a training split, with labels, in `BATCHES` batches.

    They hold about as many `predictions`, in `EXAMPLES` examples at most, and are others than those
    numbered `used` if there are enough: what units are chosen and fitted on flatters them. Raises
    :class:`DataError` if there is not one example for each batch.
    """
    total = len(split.rows)
    if total < BATCHES:
        raise DataError(
            f"scoring takes at least {BATCHES} training examples of the recipe's max_length, but "
            f"the split has {total}",
            "give more training data, or set space.recipe.max_length lower",
        )
    per_example = _predictions(split.rows[0])
    count = min(total, EXAMPLES, max(BATCHES, predictions // per_example))
    avoided = sorted({number for number in used if 0 <= number < total})
    avoided = avoided if total - len(avoided) >= count else []
    left = total - len(avoided)
    rows = [split.rows[_after(number * left // count, avoided)] for number in range(count)]
    ends = [number * count // BATCHES for number in range(BATCHES + 1)]
    parts = [rows[start:end] for start, end in pairwise(ends)]
    return [dict(split.collate(part)) for part in parts]


def _after(place: int, avoided: Sequence[int]) -> int:
    """Return the number at `place` (from 0) among those that are not `avoided`, which rise."""
    for number in avoided:
        place += number <= place
    return place


def _predictions(row: Mapping[str, object]) -> int:
    """Number of predictions of an example: its labels, which are one for a whole example."""
    labels = row.get("labels")
    return max(1, len(labels)) if isinstance(labels, list) else 1
