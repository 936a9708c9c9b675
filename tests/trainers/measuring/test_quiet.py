"""Memory that one use of a model needs, and other numbers measured on a quiet device."""

import pytest
import torch

from sharetune.spaces.errors import ModelError
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.trainers.measuring.quiet import QUIET, peak_memory, quiet_numbers
from tests.families import tiny
from tests.registries import forget_what_is_registered

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MB = 2**20


@pytest.mark.parametrize("megabytes", [48, pytest.param(192, marks=pytest.mark.slow)])
def test_the_peak_is_what_a_use_takes_at_most_at_once(megabytes):
    def use():
        for _ in range(2):  # one after the other: they are not there at once
            torch.ones(megabytes * MB // 4, device=DEVICE)

    found = peak_memory(tiny("bert").to(DEVICE), use)
    assert 0.95 * megabytes * MB <= found <= 1.05 * megabytes * MB + 4 * MB


def test_what_cannot_be_measured_is_left_out(monkeypatch):
    forget_what_is_registered(monkeypatch)
    for name in ("joules", "uses"):
        OBJECTIVES.register(name)(Objective(name, name, "minimize", source="quiet"))

    @QUIET.register("joules")
    def joules(model, use):
        """energy of a use"""
        raise ModelError("this machine has no meter", "buy one")

    @QUIET.register("uses")
    def uses(model, use):
        """how often it is used"""
        use()
        return len(used)

    used = []
    found = quiet_numbers(tiny("bert"), lambda: used.append(0))
    assert found == {"peak_memory": found["peak_memory"], "uses": 3.0}
