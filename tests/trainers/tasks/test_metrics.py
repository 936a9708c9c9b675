"""Metrics on cases worked out by hand."""

import pytest
import torch

from sharetune.trainers.tasks.metrics import calibration_error


def test_calibration_error():
    sure = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    logits = torch.stack([sure, 1 - sure], 1).log()
    labels = torch.tensor([0, 0, 0, 1, 0, 1])
    # four at 0.9 of which 3 are right, two at 0.6 of which 1: (4 * 0.15 + 2 * 0.1) / 6
    assert calibration_error(logits, labels) == pytest.approx(0.8 / 6, abs=1e-6)
    assert calibration_error(torch.tensor([[99.0, -99.0]]), torch.tensor([0])) == 0.0
    assert calibration_error(torch.tensor([[99.0, -99.0]]), torch.tensor([1])) == 1.0
