"""The front as it grows is the front of all points at once."""

import moocore
import numpy as np
import pytest

from sharetune.search.nondominated import Archive


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("equals", [True, False])
def test_what_is_kept_is_what_no_other_beats(objectives, equals):
    points = np.random.default_rng(objectives).integers(0, 12, (300, objectives)).astype(float)
    archive = Archive(objectives, equals=equals)
    for number, point in enumerate(points):
        archive.add(number, point)
        kept = moocore.is_nondominated(points[: number + 1], keep_weakly=equals)
        assert archive.numbers == list(np.flatnonzero(kept))
    assert (archive.points == points[archive.numbers]).all()
    assert archive.numbers[0] in archive
    assert 999 not in archive


def test_a_large_front_is_thinned_from_end_to_end():
    archive = Archive(2)
    for number in range(101):
        archive.add(number, np.array([100.0 - number, float(number)]))
    assert archive.spread(200).shape == (101, 2)
    assert archive.spread(5)[:, 0].tolist() == [0.0, 25.0, 50.0, 75.0, 100.0]
