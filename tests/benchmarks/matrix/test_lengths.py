"""The looped-model exponent, and the quality lead of tied over dropped layers, from CSV rows."""

import json

import pytest

from benchmarks.matrix.lengths import exponent, leads, lengths, worths
from benchmarks.matrix.names import DROPS, SHARING, UNSHARED
from benchmarks.matrix.table import Lead
from tests.benchmarks.matrix.test_table import row

TIE = json.dumps({"groups": [{"layers": "0..3", "form": "tie"}]})
DROP = json.dumps({"groups": [{"layers": [3], "form": "drop"}]})


def trained(method, part, quality, plan, **more):
    return [row(method, part, seed, quality, plan=plan, **more) for seed in (1, 2)]


def ladder(quarter, half, whole, **more):
    """Models with a quarter and half of the layers, and all."""
    return [
        *trained(DROPS, 0.25, quarter, DROP, **more),
        *trained(DROPS, 0.5, half, DROP, **more),
        *trained(UNSHARED, 1.0, whole, '{"groups":[]}', **more),
    ]


def test_four_uses_worth_two_layers_are_an_exponent_of_a_half():
    (found,) = worths([*ladder(0.6, 0.7, 0.9), *trained(SHARING, 0.25, 0.7, TIE)])
    assert (found.stored, found.is_bound) == (0.25, False)
    assert found.depth == pytest.approx(0.5)
    assert found.exponent == pytest.approx(0.5)  # 4 ** 0.5 == 2
    assert exponent([found]) == "0.50 (1 plans)"


@pytest.mark.parametrize(("quality", "depth"), [(0.95, 1.0), (0.5, 0.25)])
def test_beyond_all_models_with_fewer_layers_is_a_bound(quality, depth):
    (found,) = worths([*ladder(0.6, 0.7, 0.9), *trained(SHARING, 0.25, quality, TIE)])
    assert (found.depth, found.is_bound) == (depth, True)


def test_where_depth_is_worth_nothing_there_is_no_exponent():
    assert worths([*ladder(0.9, 0.8, 0.7), *trained(SHARING, 0.25, 0.7, TIE)]) == []
    assert exponent([]) == "none: depth is worth nothing here"


def test_ties_lead_the_best_drop_of_at_most_the_size():
    found = leads([*ladder(0.75, 0.7, 0.9), *trained(SHARING, 0.25, 0.8, TIE)])
    assert found[0.5] == Lead("drops", pytest.approx(0.05), pytest.approx(0.0))


def test_only_workloads_of_several_lengths_are_printed():
    one = [*ladder(0.6, 0.7, 0.9), *trained(SHARING, 0.25, 0.7, TIE)]
    longer = [*ladder(0.6, 0.7, 0.9, times=4.0), *trained(SHARING, 0.25, 0.7, TIE, times=4.0)]
    assert lengths(one).count("\n") == 1
    assert lengths([*one, *longer]).count("\n") == 3
