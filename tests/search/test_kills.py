"""The kill benchmark in a short version: real processes, real SIGKILLs."""

import re
import subprocess
import sys

import pytest

from tests.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "kills.py"
KILLS = {
    "driver": ("--kills", "4", "--executor", "local"),
    "worker": ("--kills", "3", "--trials", "12"),
    "node": ("--kills", "2", "--trials", "12"),
}


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("who", KILLS)
def test_a_search_killed_at_random_moments_loses_and_doubles_nothing(who):
    command = [sys.executable, SCRIPT, who, *KILLS[who]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    last = result.stdout.strip().split("\n")[-1]
    counted = {name: int(count) for name, count in re.findall(r"'([a-z ]+)': (\d+)", last)}
    assert last.startswith(f"{KILLS[who][1]} kills")
    wrong = ("lost", "running", "duplicated", "off budget", "off seeds", "failed")
    assert [counted[name] for name in wrong] == [0] * 6
