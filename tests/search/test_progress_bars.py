"""Progress of work with a known number of steps, wherever it is shown."""

import io
import re

import pytest
from rich.console import Console

from sharetune.search import progress_bars
from sharetune.search.progress_bars import Steps, bar_html, clock
from tests.paths import ROOT


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until a test moves it."""
    time = [100.0]
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: time[0])
    return time


def test_a_log_gets_a_line_at_once_and_then_now_and_then(now):
    out = io.StringIO()
    with Steps("scoring edits", 60, 10, Console(file=out)) as steps:
        for _ in range(4):
            now[0] += 4
            steps.advance(5)
    assert out.getvalue().splitlines() == [
        "scoring edits: 10/60",
        "scoring edits: 25/60, about 0:28 left",  # 8 s for 10 edits after the first 5
    ]


def test_known_steps_take_no_time_and_the_end_has_none_left(now):
    steps = Steps("timing edits", 3, 1, Console(file=io.StringIO()))
    assert steps.text() == "timing edits: 1/3"
    now[0] += 90  # workers load a model
    steps.advance()
    assert steps.text() == "timing edits: 2/3"
    now[0] += 20
    steps.advance()
    assert steps.text() == "timing edits: 3/3"


def test_fewer_steps_than_were_expected(now):
    out = io.StringIO()
    steps = Steps("scoring edits", 100, 0, Console(file=out))
    steps.advance()
    now[0] += 5
    steps.advance()
    assert steps.text() == "scoring edits: 2/100, about 8:10 left"
    steps.limit(10, "time is up")
    steps.limit(10, "time is up")
    assert out.getvalue() == "at most 10 of 100: time is up\n"
    assert steps.text() == "scoring edits: 2/10, about 0:40 left"


def test_a_terminal_gets_a_bar(now):
    out = io.StringIO()
    with Steps("scoring edits", 4, 0, Console(file=out, force_terminal=True, width=80)) as steps:
        steps.advance(4)
    assert "4/4" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


def test_a_notebook_s_bar_is_replaced_in_place(now, monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown = []

    class Handle:
        def update(self, found):
            shown.append(found.data)

    def show(found, display_id):
        shown.append(found.data)
        return Handle()

    monkeypatch.setattr(display, "display", show)
    console = Console(file=io.StringIO(), force_jupyter=True)
    with Steps("scoring edits", 4, 1, console) as steps:
        steps.advance()
        now[0] += 2
        steps.advance()
    assert shown == [
        '<progress value="1" max="4"></progress> scoring edits: 1/4',
        '<progress value="2" max="4"></progress> scoring edits: 2/4',
        '<progress value="3" max="4"></progress> scoring edits: 3/4, about 0:02 left',
    ]


def test_names_of_others_are_text_in_a_notebook():
    assert (
        bar_html("<b>a</b>", 0, 0) == '<progress value="0" max="1"></progress> &lt;b&gt;a&lt;/b&gt;'
    )


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_seconds_are_written_as_a_clock(seconds, text):
    assert clock(seconds) == text


IN_A_CELL = """
from sharetune.search.progress_bars import Steps

with Steps("scoring edits", 3) as steps:
    steps.advance()
    steps.advance(2)
"""


@pytest.mark.slow
def test_a_kernel_shows_one_bar_that_ends_full(monkeypatch, tmp_path):
    """In a real kernel, as a notebook runs it."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_A_CELL)])
    nbclient.NotebookClient(notebook, timeout=300).execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/html"].startswith('<progress value="3" max="3"></progress> scoring')
