"""Metrics that none of our libraries has, and the report by class."""

from collections.abc import Sequence

import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

BINS = 15
"""Intervals of confidence for the calibration error, as in Guo et al."""

PREFIXES = ("B-", "I-")
"""Prefixes of BIO tags: an entity begins, an entity goes on."""


def calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Compute the expected calibration error, 0..1: how far confidence is from accuracy.

    Confidences fall into `bins` equal intervals, weighted by examples (Guo et al., arXiv
    1706.04599). `logits` (examples, classes), `labels` (examples).
    """
    confidence, predicted = logits.float().softmax(-1).max(-1)
    right = (predicted == labels).float()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins).index_add_(0, bin_of, confidence - right)
    return float(gaps.abs().sum() / len(labels))


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return ``(kind, first, last)`` of every entity that tags such as B-LOC and I-LOC mark.

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
    """Compute the micro F1 of whole entities over all texts, 0..1; 0 where there are none.

    As conlleval (Tjong Kim Sang and De Meulder, 2003).
    """
    right = found = true = 0
    for one, other in zip(predicted, wanted, strict=True):
        mine, theirs = entities(one), entities(other)
        right, found, true = right + len(mine & theirs), found + len(mine), true + len(theirs)
    return 2 * right / (found + true) if found + true else 0.0


def ranking_gains(ranks: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
    """Return each user's hit (0 or 1) and discounted gain (0..1) at `k`.

    `ranks` are those of the users' right items, 1 is first. The means are hit rate and NDCG.
    """
    hits = (ranks <= k).double()
    return hits, hits / (ranks.double() + 1).log2()


def by_class(
    truth: object, predicted: object, names: Sequence[str]
) -> tuple[dict[str, dict[str, float]], list[list[int]]]:
    """Return precision, recall, F1 and support of each class, and the confusion matrix.

    `truth` and `predicted` are class numbers, `names` their names; the matrix's rows are true
    classes. A ratio whose denominator is 0 counts 0.
    """
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
