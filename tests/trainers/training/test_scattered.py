"""Many rows in random order, without a list of their numbers."""

from itertools import islice, pairwise
from statistics import mean

import pytest

from sharetune.trainers.training.patience import AllBut, hold_out
from sharetune.trainers.training.scattered import Scattered


@pytest.mark.parametrize("rows", [1, 2, 5, 64, 1000, 4097])
def test_each_row_comes_once(rows):
    order = Scattered(rows, seed=3)
    assert sorted(order) == list(range(rows))
    assert len(order) == rows


def test_orders_differ_by_seed_and_epoch_and_come_again():
    order = Scattered(1000, seed=0)
    first = list(order)
    assert list(order) == first
    assert list(Scattered(1000, seed=1)) != first
    order.set_epoch(1)
    assert list(order) != first


def test_the_first_rows_are_spread_over_all():
    rows = 10**9
    found = list(islice(Scattered(rows, seed=0), 4000))
    assert mean(found) / rows == pytest.approx(0.5, abs=0.02)
    tenths = [sum(int(10 * n / rows) == t for n in found) for t in range(10)]
    assert min(tenths) > 330
    steps = [b > a for a, b in pairwise(found)]
    assert mean(steps) == pytest.approx(0.5, abs=0.03)  # neither rising nor falling


def test_rows_held_out_and_the_others_without_a_list():
    rest, held = hold_out(range(23))
    assert list(held) == [0, 10, 20]
    assert list(rest) == [n for n in range(23) if n % 10]
    assert AllBut(10, 23)[1:4] == [2, 3, 4]
    assert len(AllBut(2, 2)) == 1
