"""The picture of the matrix: a panel a workload, a line a method that lies within it."""

import re

from benchmarks.matrix.names import DROPS, FOUND, TIED, UNSHARED
from benchmarks.matrix.picture import COLOURS, picture
from benchmarks.matrix.rows import read_rows
from tests.benchmarks.matrix.test_table import rows
from tests.paths import ROOT


def test_a_panel_has_a_line_a_method_and_leaves_out_what_would_flatten_it():
    drawn = picture(
        [
            *rows(UNSHARED, 1.0, 0.9),
            *rows(DROPS, 0.2, 0.7),
            *rows(DROPS, 0.4, 0.8),
            *rows(FOUND, 0.2, 0.85),
            *rows(FOUND, 0.4, 0.9),
            *rows(TIED, 0.2, 0.1),
        ]
    )
    assert "sums: accuracy, more is better" in drawn
    lines = re.findall(r'<polyline points="([^"]*)" fill="none" stroke="(#\w+)"', drawn)
    assert [colour for _, colour in lines] == [COLOURS[DROPS], COLOURS[FOUND]]
    (_, low), (_, high) = ([float(n) for n in point.split(",")] for point in lines[0][0].split())
    assert low < high  # parts are listed from the largest: 0.8 lies above 0.7


def test_the_picture_of_the_docs_is_drawn_from_the_rows():
    drawn = (ROOT / "docs/pictures/matrix.svg").read_text("utf-8")
    rows_there = read_rows(ROOT / "benchmarks/matrix/rows")
    assert picture(rows_there) + "\n" == drawn, "run python -m benchmarks.matrix picture"
