"""The kill benchmark in a short version: real processes, real SIGKILLs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_a_search_killed_at_random_moments_loses_and_doubles_nothing():
    command = [sys.executable, SCRIPT, "driver", "--kills", "4", "--executor", "local"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    last = result.stdout.strip().split("\n")[-1]
    counted = {name: int(count) for name, count in re.findall(r"'([a-z ]+)': (\d+)", last)}
    assert last.startswith("4 kills")
    wrong = ("lost", "running", "duplicated", "off budget", "off seeds", "failed")
    assert [counted[name] for name in wrong] == [0] * 6
