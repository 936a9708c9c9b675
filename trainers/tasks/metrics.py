"""Metrics that no library we use has, and what a report says of each class."""

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

BINS = 15
PREFIXES = ("B-", "I-")


def calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error, 0..1: how far confidence is from accuracy, over `bins` equal
    intervals of confidence, weighted by examples (Guo et al., arXiv 1706.04599).

    `logits` (examples, classes), `labels` (examples).
    """
    confidence, predicted = logits.float().softmax(-1).max(-1)
    right = (predicted == labels).float()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins).index_add_(0, bin_of, confidence - right)
    return float(gaps.abs().sum() / len(labels))


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """``(kind, first, last)`` of every entity that tags such as B-LOC and I-LOC mark.

    As conlleval: an I- whose kind differs from the tag before it, or that follows O, begins an
    entity. Other tags than O that have no such prefix are entities of that kind, one a run.
    """
    found, kind, first = set(), "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, named = tag.partition("-") if tag[:2] in PREFIXES else ("I", "-", tag)
        here = "" if tag == "O" else named
        if kind and (prefix == "B" or here != kind):
            found.add((kind, first, place - 1))
            kind = ""
        if here and not kind:
            kind, first = here, place
    return found


def span_f1(predicted: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    """Micro F1 of whole entities over all texts, 0..1; 0 where there are none (conlleval, Tjong Kim
    Sang and De Meulder, 2003)."""
    right = told = true = 0
    for one, other in zip(predicted, wanted, strict=True):
        mine, theirs = entities(one), entities(other)
        right, told, true = right + len(mine & theirs), told + len(mine), true + len(theirs)
    return 2 * right / (told + true) if told + true else 0.0


def ranking_metrics(ranks: Tensor, k: int = 10) -> tuple[float, float]:
    """Hit rate and NDCG at `k` of the ranks (1 is first) of one right item each."""
    hits = (ranks <= k).double()
    return float(hits.mean()), float((hits / (ranks.double() + 1).log2()).mean())


def by_class(
    truth: Any, predicted: Any, names: Sequence[str]
) -> tuple[dict[str, dict[str, float]], list[list[int]]]:
    """Return precision, recall, F1 and support of each of `names`, and the confusion matrix (rows
    are true), of classes by number. What was never predicted, or never true, counts 0."""
    numbers = range(len(names))
    scores = precision_recall_fscore_support(truth, predicted, labels=numbers, zero_division=0)
    rows = zip(names, *scores, strict=True)
    return (
        {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(many)}
            for name, p, r, f, many in rows
        },
        confusion_matrix(truth, predicted, labels=numbers).tolist(),
    )
