"""Train a batch in parts whose gradients add up to those of the whole batch.

A model's loss on a part is the mean over what the part counts: labels, examples or tokens. Parts
differ in these counts, so the mean of their means is not the batch's. Each part's mean is therefore
weighted by what it counts: the batch's mean is ``sum(counted_i * mean_i) / sum(counted_i)``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, distributed
from transformers import PreTrainedModel

from sharetune.trainers.data.blocks import UNCOUNTED

SHARES = "shares_of_batch"
"""Key of a part for its :class:`Shares`; no model has an input of this name."""

SPARE = "is_spare"
"""Key of a part that stands in for none, and counts nothing."""


FEW = 2
"""Examples of the smaller of two measured batches: of the memory for one, rounding is a part."""

USED = 0.8
"""Fraction of the free memory that a batch may take; fragmentation needs some of the rest."""


@dataclass(frozen=True)
class Shares:
    """Weights of one part in its batch's means over counted labels, examples and tokens.

    The mean of each over all parts, in all processes that train together, is 1.
    """

    labels: float = 1.0
    examples: float = 1.0
    tokens: float = 1.0


WHOLE = Shares()
"""The shares of a batch in one part."""


def equal_part(batch_size: int, most: int) -> int:
    """Return the largest divisor of `batch_size` that is at most `most`, and at least 1."""
    sizes = range(max(1, min(most, batch_size)), 0, -1)
    return next(size for size in sizes if batch_size % size == 0)


def most_that_fit(rise: Callable[[int], float], free: float, batch_size: int) -> int:
    """Return how many examples of a batch fit into the `free` bytes at once, at least one.

    ``rise(n)`` trains on n examples and returns the bytes that this took, which are taken to rise
    linearly with n. Its first call is not counted: it loads what later ones find.
    """
    few = max(1, min(FEW, batch_size // 2))
    _, low, high = rise(few), rise(few), rise(2 * few)
    each = (high - low) / few
    if each <= 0:
        return batch_size
    return max(1, few + int((USED * free - low) / each))


def share_out(parts: Sequence[Mapping[str, Any]], model: PreTrainedModel) -> list[dict[str, Any]]:
    """Return the parts of one batch with their `SHARES`, those of other processes considered."""
    rows = [[0, 0, 0] if SPARE in part else _counts(part, model) for part in parts]
    counted, number = torch.tensor(rows, dtype=torch.float64), len(parts)
    totals = counted.sum(0)
    if distributed.is_initialized():
        distributed.all_reduce(totals)
        number *= distributed.get_world_size()
    weights = number * counted / totals.clamp_min(1)
    shares = [Shares(*row) for row in weights.tolist()]
    return [_shared(part, share) for part, share in zip(parts, shares, strict=True)]


def _shared(part: Mapping[str, Any], shares: Shares) -> dict[str, Any]:
    """Return a part with its shares.

    One without counted labels gets some, of weight 0: the mean over none is not a number.
    """
    found = {key: value for key, value in part.items() if key != SPARE} | {SHARES: shares}
    labels = found.get("labels")
    if not shares.labels and _is_whole(labels) and not labels.ne(UNCOUNTED).any():
        found["labels"] = torch.zeros_like(labels)
    return found


def _is_whole(labels: object) -> TypeGuard[Tensor]:
    return isinstance(labels, Tensor) and not labels.is_floating_point()


def _counts(part: Mapping[str, Any], model: PreTrainedModel) -> list[int]:
    """Return the numbers of labels, examples and tokens that the part's means are over."""
    examples = len(next(value for value in part.values() if isinstance(value, Tensor)))
    mask = part.get("attention_mask")
    if mask is not None:
        tokens = int(mask.sum())
    else:
        tokens = part["input_ids"].numel() if "input_ids" in part else examples
    return [_labels(part, model, examples), examples, tokens]


def hears_frames(model: PreTrainedModel) -> bool:
    """Return whether the model's loss is CTC's, which has labels for a recording's whole text."""
    return getattr(model, "loss_type", None) == "ForCTC"


def _labels(part: Mapping[str, Any], model: PreTrainedModel, examples: int) -> int:
    """Count the labels that the model's own loss is the mean over.

    That is one an example for numbers, for CTC, whose loss is divided by the length of each text
    first, and where the labels have another name. A causal model predicts no first token.
    """
    labels = part.get("labels")
    if not _is_whole(labels) or labels.dim() > 2 or hears_frames(model):
        return examples
    is_causal = model.can_generate() and not model.config.is_encoder_decoder
    counted = labels[:, 1:] if is_causal and labels.dim() == 2 else labels
    return int(counted.ne(UNCOUNTED).sum())
