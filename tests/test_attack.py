"""Bad inputs, a sample of those of `benchmarks/attack.py` and `round_trips.py`: each is refused or
taken, and what is taken reads back equal."""

import sys

import pytest

from tests.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from attack import KINDS, attack
from round_trips import count_outcomes

QUICK = {"api": 20, "study text": 12, "set": 12}


@pytest.mark.parametrize(
    ("kind", "count", "seed"),
    [
        *((kind, count, 1) for kind, count in QUICK.items()),
        *(pytest.param(kind, 40, 2, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_bad_inputs_are_refused_and_leave_nothing(kind, count, seed):
    counts = attack(count, seed, kinds=[kind], show=3)
    assert counts.faults == []
    assert counts.total("refused") > 0


def test_random_settings_are_refused_or_read_back_equal():
    counts, wrong = count_outcomes(600, 3)
    assert wrong == [] and set(counts) == {"refused", "equal"}
    assert counts["equal"] > 100
