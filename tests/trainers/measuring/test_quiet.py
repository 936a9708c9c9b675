"""Memory that one use of a model needs, and other numbers measured on a quiet device."""

import pytest
import torch

from sharetune.spaces.errors import ModelError
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.trainers.measuring.latency import SelfTimed
from sharetune.trainers.measuring.quiet import QUIET, Usage, Writing, peak_memory, quiet_numbers
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
    found = quiet_numbers(tiny("bert"), Usage(lambda: used.append(0)))
    assert found == {"peak_memory": found["peak_memory"], "uses": 3.0}


def writing(**changes):
    """Writing of 5 tokens after 20 that takes 10 ms to the first, and 2 ms for each further."""
    runs = {"whole": SelfTimed(lambda: 18.0), "first": SelfTimed(lambda: 10.0)}
    return Writing(**runs | {"tokens": 5, "read": 20, "rounds": 3} | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"first_token_ms": 10, "prefill_tokens_per_s": 2000, "decode_tokens_per_s": 500}),
        ({"read": None}, {"first_token_ms": 10, "decode_tokens_per_s": 500}),
        (
            {"whole": SelfTimed(lambda: 9.0)},
            {"first_token_ms": 10, "prefill_tokens_per_s": 2000},
        ),
    ],
)
def test_reading_and_writing_have_their_speeds(changes, expected):
    found = quiet_numbers(tiny("llama"), Usage(lambda: None, writing(**changes)))
    assert {name: value for name, value in found.items() if name != "peak_memory"} == expected
