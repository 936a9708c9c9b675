"""Rules that matter: how rooms may import each other, and what stays unloaded."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.structure import REASONS, House, circle

MAY_IMPORT = {
    "spaces": {"spaces"},
    "trainers": {"trainers", "spaces"},
    "results": {"results", "spaces"},
    "search": {"search", "results", "trainers", "spaces"},
}
HOUSE = House(ROOT)
MODULES, ROOMS = HOUSE.modules(), HOUSE.rooms()
EVERYWHERE = [
    path
    for folder in (*MAY_IMPORT, "sharetune", "tests", "benchmarks", "docs", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


@cache
def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down_the_layout(module):
    package = module.split(".")[0]
    assert {other.split(".")[0] for other in MODULES[module]} <= MAY_IMPORT[package]


def test_no_files_import_each_other_in_a_circle():
    assert circle(MODULES) == []


def test_no_rooms_import_each_other_in_a_circle():
    assert circle(ROOMS) == []


def test_a_function_is_short_or_a_reason_is_known():
    assert HOUSE.large_functions() == set(REASONS)


def test_a_circle_is_found():
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_nobody_imports_the_packages_by_their_folders():
    """`search` and `spaces` are other people's names: ours are `sharetune.search`, ..."""
    for path in EVERYWHERE:
        assert not imported(path) & set(MAY_IMPORT), path


def test_trainers_know_neither_ray_nor_optuna():
    for name, path in HOUSE.files.items():
        if name.startswith("trainers."):
            assert not imported(path) & {"ray", "optuna"}, path


def test_which_files_import_ray():
    users = {name for name, path in HOUSE.files.items() if "ray" in imported(path)}
    assert users == {
        "search.workers.ray_cluster",
        "search.workers.ray_tune",
        "search.workers.ray_scores",
        "search.pinned.ray_internals",
    }


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split("\n")[-2].split())


HEAVY = {"torch", "ray", "optuna", "transformers", "pandas", "plotly"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (
            "import sharetune; from sharetune import search, SharingPlan, Recipe\n"
            "import sharetune.spaces.space, sharetune.spaces.anchors\n"
            "from sharetune.spaces.planning import exchange, grid, rivals, solving",
            HEAVY,
        ),
        (
            "from sharetune import load, pareto_front\nimport sharetune.results.page.report",
            {"torch", "ray", "transformers"},
        ),
        pytest.param(
            "import sharetune.trainers.evaluation.evaluator",
            {"ray", "optuna"},
            marks=pytest.mark.slow,
        ),
        ("import sharetune.search.search, sharetune.search.run", {"torch", "ray"}),
        (
            "from typer.testing import CliRunner\n"
            "from sharetune.search.commands.cli import app\n"
            "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
            HEAVY,
        ),
    ],
)
def test_what_stays_unloaded(code, absent):
    assert not loaded_after(code) & absent


def test_every_name_of_the_face_exists():
    import sharetune
    from sharetune.search.commands.doctor import own_version

    for name in sharetune.__all__:
        assert name == "plans" or callable(getattr(sharetune, name)), name
    assert sharetune.__version__ == own_version()
    with pytest.raises(AttributeError, match="has no attribute 'shares'"):
        _ = sharetune.shares
