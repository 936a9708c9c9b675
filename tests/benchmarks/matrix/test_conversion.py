"""Variations of a conversion: their plans, and the table of what they gained."""

import pytest

from benchmarks.matrix import conversion
from benchmarks.matrix.conversion import VARIATIONS, table, varied
from benchmarks.matrix.names import NARROWING, UNSHARED
from benchmarks.matrix.rows import add_rows
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.recipe import Recipe
from tests.benchmarks.matrix.test_table import rows

SOLVED = SharingPlan.from_yaml("""
groups:
  - {layers: 0..1, stack: layers}
  - {layers: 2..3, stack: layers, form: {bank: {ratio: 0.5}}}
""")


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("as solved", str(SOLVED)),
        (
            "residuals",
            "layers 0..1 lowrank 16 attention+ffn from mean; "
            "layers 2..3 bank 0.5 attention+ffn from mean",
        ),
        ("middle", "layers 1..4 tie attention+ffn+norms+biases from mean"),
    ],
)
def test_a_variation_s_plan(name, plan):
    assert str(varied(SOLVED, name)) == plan


def test_all_variations_are_recipes():
    for variation in VARIATIONS.values():
        Recipe.model_validate(variation.recipe)
        assert variation.plan in ("as solved", "residuals", "middle")


def test_the_table_says_what_was_gained_seed_by_seed(tmp_path, monkeypatch):
    """Gains of 0.02, 0.03 and 0.01: half of the interval 0.0248, t with 2 degrees 4.303."""
    monkeypatch.setattr(conversion, "ROWS", tmp_path / "conversion")
    monkeypatch.setattr(conversion, "MATRIX", tmp_path / "rows")
    add_rows(tmp_path / "rows/sums.csv", rows(UNSHARED, 1.0, 0.75))
    add_rows(tmp_path / "rows/sums.csv", rows(NARROWING, 0.6, 0.5))
    add_rows(tmp_path / "conversion/sums.csv", rows("nothing", 0.6, 0.5, 0.6, 0.7))
    add_rows(tmp_path / "conversion/sums.csv", rows("four times the steps", 0.6, 0.52, 0.63, 0.71))
    lines = table().splitlines()
    assert lines[0] == "sums: accuracy; unshared 0.75 (one seed), narrowed 0.5 (one seed)"
    assert lines[4].endswith("| +0.02 +- 0.025 |")
    assert lines[5].startswith("| nothing | 0.60 | 0.6 +- 0.25 |")
