"""Counts that go on, or do not, by a clock of the test's own."""

import json
import os
import subprocess
import sys
import time

import pytest

from sharetune.search.workers import pulse
from sharetune.search.workers.pulse import Pulse, PulseWatch, end_process
from sharetune.spaces.run_folder import RunFolder


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands where the test sets it."""
    now = [100.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now[0])
    return now


def beats(run, count, job=7):
    beat = {"count": count, "pid": 1, "node": "n", "job": job}
    (run.pulses / "n-1").write_text(json.dumps(beat))


def test_a_count_that_stands_still_is_told_once(tmp_path, clock):
    run = RunFolder(tmp_path)
    with PulseWatch(run, 5.0) as watch:
        beats(run, 1)
        assert watch.stopped() == []
        clock[0] += 4
        beats(run, 2)
        assert watch.stopped() == []
        clock[0] += 4.9
        assert watch.stopped() == []
        clock[0] += 0.6
        (beat,) = watch.stopped()
        assert (beat.pid, beat.job, beat.count) == (1, 7, 2)
        clock[0] += 60
        assert watch.stopped() == []
    assert not run.pulses.exists()


def test_a_file_that_cannot_be_read_is_left_for_later(tmp_path, clock):
    run = RunFolder(tmp_path)
    with PulseWatch(run, 5.0) as watch:
        (run.pulses / "n-1").write_text("{")
        assert watch.stopped() == []


def test_a_process_counts_as_long_as_the_search_lasts(tmp_path):
    run = RunFolder(tmp_path)
    with PulseWatch(run, 5.0):
        counting = Pulse(run, "n")
        until = time.monotonic() + 10
        while not counting.path.exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert json.loads(counting.path.read_text())["pid"] == os.getpid()


def test_only_workers_are_ended():
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert not end_process(other.pid)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
