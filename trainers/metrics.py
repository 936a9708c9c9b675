"""Metrics of predictions that no library we use has."""

import torch
from torch import Tensor

BINS = 15


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
