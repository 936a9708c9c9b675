"""The matrix is printed from its rows alone, and says who wins each cell."""

import math

import pytest

from benchmarks.matrix.names import DROPS, FOUND, NARROWING, UNSHARED
from benchmarks.matrix.rows import Row, add_rows, read_rows
from benchmarks.matrix.table import Cells, Score, table
from tests.paths import ROOT


def row(method, part, seed, quality, metric="accuracy", plan=None, **more):
    return Row(
        **{
            "workload": "sums",
            "method": method,
            "part": part,
            "times": 1.0,
            "seed": seed,
            "stack": part,
            "parameters": 1000,
            "steps": 10,
            "pflop": 0.5,
            "search_pflop": 0.0,
            "metric": metric,
            "quality": quality,
            "eval_loss": 1.0,
            "seconds": 2.0,
            "plan": plan or f"{method} {part}",
        }
        | more
    )


def rows(method, part, *qualities, **more):
    return [row(method, part, seed, q, **more) for seed, q in enumerate(qualities)]


def test_rows_are_read_as_they_were_written(tmp_path):
    written = [row(DROPS, 0.4, 1, 0.25, plan='{"groups":[]}'), row(FOUND, 0.2, 2, math.nan)]
    for one in written:
        add_rows(tmp_path / "sums.csv", [one])
    assert len(read_rows(tmp_path)) == len(read_rows(tmp_path / "sums.csv")) == 2
    assert read_rows(tmp_path)[0] == written[0]
    assert math.isnan(read_rows(tmp_path)[1].quality)
    assert read_rows(tmp_path / "none") == []


def test_a_lead_is_over_the_best_rival_of_at_most_the_size():
    """0.8, 0.82, 0.84 over 0.7, 0.71, 0.75: leads of 0.10, 0.11, 0.09, half 0.02484 by t 4.303."""
    found = rows(FOUND, 0.4, 0.8, 0.82, 0.84)
    smaller, larger = rows(NARROWING, 0.2, 0.7, 0.71, 0.75), rows(DROPS, 0.6, 0.9, 0.9, 0.9)
    lead = Cells([*found, *smaller, *rows(DROPS, 0.4, 0.1, 0.1, 0.1), *larger]).lead(0.4)
    assert lead.rival == "narrowing at 20%"
    assert lead.mean == pytest.approx(0.1)
    assert lead.half == pytest.approx(0.02484, abs=1e-5)
    assert lead.is_sure and not lead.is_sure_loss


def test_less_is_better_of_a_loss():
    found = rows(FOUND, 0.4, 3.0, 3.1, 3.2, metric="eval_loss")
    lead = Cells([*found, *rows(DROPS, 0.4, 2.0, 2.1, 2.2, metric="eval_loss")]).lead(0.4)
    assert lead.mean == pytest.approx(-1.0)
    assert lead.is_sure_loss


def test_the_same_plan_is_no_lead():
    found = rows(FOUND, 0.4, 0.8, 0.8, plan="one")
    lead = Cells([*found, *rows(DROPS, 0.4, 0.8, 0.8, plan="one")]).lead(0.4)
    assert lead.same and not lead.is_sure
    assert Score.of([lead]) == Score(1, 1, 0, 0)


def test_what_is_missing_is_called_so():
    printed = table([*rows(UNSHARED, 1.0, 0.9, 0.9), *rows(DROPS, 0.2, 0.5, 0.7)])
    assert "| 20% | 0.6 +- 1.3 | missing | missing |" in printed
    assert "of 0 cells" in printed


def test_the_table_of_the_repository_is_printed():
    stored = read_rows(ROOT / "benchmarks" / "matrix" / "rows")
    printed = table(stored)
    for name in {row.workload for row in stored}:
        assert f"### {name}, steps x1" in printed
    assert sum(path.stat().st_size for path in (ROOT / "benchmarks/matrix/rows").iterdir()) < 20e6
