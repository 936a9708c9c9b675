"""Rules that matter: import direction between folders, and what stays unloaded."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "spaces": {"spaces"},
    "trainers": {"trainers", "spaces"},
    "results": {"results", "spaces"},
    "search": {"search", "results", "trainers", "spaces"},
}
OURS = set(MAY_IMPORT)
FILES = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_the_layout(path):
    folder = path.relative_to(ROOT).parts[0]
    assert imported(path) & OURS <= MAY_IMPORT[folder]


def test_trainers_know_neither_ray_nor_optuna():
    for path in FILES:
        if path.is_relative_to(ROOT / "trainers"):
            assert not imported(path) & {"ray", "optuna"}, path


def test_only_one_file_imports_ray():
    users = [path.relative_to(ROOT).as_posix() for path in FILES if "ray" in imported(path)]
    assert users == ["search/tune.py"]


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import spaces, spaces.space, spaces.anchors", {"torch", "ray", "optuna", "transformers"}),
        ("import results.report", {"torch", "ray", "transformers"}),
        ("import trainers.evaluation", {"ray", "optuna"}),
        ("import search.driver, search.run", {"torch", "ray"}),
        (
            "from typer.testing import CliRunner\nfrom search.cli import app\n"
            "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
            {"torch", "ray", "optuna", "pandas", "plotly"},
        ),
    ],
)
def test_what_stays_unloaded(code, absent):
    assert not loaded_after(code) & absent
