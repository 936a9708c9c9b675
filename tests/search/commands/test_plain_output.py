"""A terminal of another encoding shows a run's numbers all the same."""

import os
import subprocess
import sys

from sharetune.search.commands.plain_output import in_plain_letters
from tests.paths import ROOT


def test_letters_that_are_not_ascii():
    assert in_plain_letters("91.0–93.4 %, × 1.2, naïve, 日") == "91.0-93.4 %, x 1.2, naive, ?"


def test_an_ascii_terminal_shows_all():
    code = (
        "from sharetune.search.commands.plain_output import show_everywhere\n"
        "show_everywhere(); print('91.0\\u201393.4 \\u00d7')"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout) == (0, b"91.0-93.4 x\n"), done.stderr
