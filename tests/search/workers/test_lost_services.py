"""Ray's own processes are killed during a real search; it says so, and how to go on."""

import os
import shlex
import socket
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from sharetune import results
from sharetune.search.workers.service_watch import ServiceWatch, knock_at
from sharetune.spaces.errors import ClusterLost, RunError
from tests.checkpoint import write_study_data
from tests.paths import ROOT

SERVICES = {"gcs_server": "control service", "raylet": "raylet"}
TRIALS = 8


def write_study(folder):
    write_study_data(folder, 60)
    task = {"name": "text-classification", "train": "train.csv", "test": "test.csv"}
    recipe = {"steps": 30, "learning_rate": {"low": 1e-4, "high": 1e-2}, "max_length": 12}
    data = {
        "model": "model",
        "task": task,
        "budget": {"trials": TRIALS},
        "resources": {"workers": 1},
        "latency": {"rounds": 0},
        "scoring": "off",
        "space": {"plan": [{"layers": {"within": "0..-1", "min": 2}}], "recipe": recipe},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    return folder


def started(words, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sharetune", *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
    )


def trials_ended(run):
    try:
        return int((results.load(run)["state"] == "COMPLETE").sum())
    except RunError:
        return 0


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("process", SERVICES)
def test_a_search_without_them_ends_with_the_command_that_goes_on(tmp_path, process):
    run = write_study(tmp_path) / "run"
    search = started(["search", "study.yaml", "--out", "run"], tmp_path)
    while trials_ended(run) < 2:
        assert search.poll() is None, search.communicate()[0]
        time.sleep(0.2)
    family = psutil.Process(search.pid).children(recursive=True)
    (victim,) = [each for each in family if each.name() == process]
    victim.kill()
    killed = time.monotonic()
    said, _ = search.communicate(timeout=120)
    assert time.monotonic() - killed < 45
    assert search.returncode == 2, said
    assert f"error: Ray's {SERVICES[process]} is gone, and with it the workers\n\nhint: " in said
    assert "Traceback" not in said
    (line,) = [line for line in said.split("\n") if line.startswith("hint: ")]
    again = shlex.split(line.partition("continue: ")[2])
    assert again[:2] == ["sharetune", "search"] and "--resume" in again
    before = results.load(run)
    resumed = started(again[1:], tmp_path)
    assert resumed.communicate(timeout=300)[0] is not None and resumed.returncode == 0
    after = results.load(run)
    assert (after["state"] == "COMPLETE").sum() - after["same_as"].notna().sum() == TRIALS
    assert not (after["state"] == "RUNNING").any()
    ended = before[before["state"] == "COMPLETE"]["number"]
    assert list(after["values"][ended]) == list(before["values"][ended])


def silent(error):
    """Says nothing."""


def test_an_error_that_follows_a_loss_becomes_one_of_ours():
    with socket.create_server(("127.0.0.1", 0)) as server:
        knock = knock_at(f"127.0.0.1:{server.getsockname()[1]}")
        with ServiceWatch({"it": knock}, silent) as watch:
            assert watch.refusing() is None
            watch.stop_if_lost()
            watch.stop_if_refused()
        with pytest.raises(KeyError), ServiceWatch({"it": knock}, silent):
            raise KeyError("of its own")
    lost = ServiceWatch({"it": knock}, silent)
    with pytest.raises(ClusterLost, match="Ray's it is gone") as caught, lost:
        raise KeyError("which comes of the loss")
    assert caught.value.hint == "what is finished is kept; continue with --resume"


@pytest.fixture
def hasty(monkeypatch):
    for name, seconds in {"KNOCK_S": 0.01, "PATIENCE_S": 0.05, "STUCK_S": 0.3}.items():
        monkeypatch.setattr(f"sharetune.search.workers.service_watch.{name}", seconds)


def test_a_loss_is_noticed_between_two_steps_and_before_a_question(hasty, tmp_path):
    gone = {"it": knock_at(str(tmp_path / "socket"))}
    with pytest.raises(ClusterLost, match="Ray's it is gone"), ServiceWatch(gone, silent) as watch:
        while True:
            watch.stop_if_lost()
            time.sleep(0.01)
    with pytest.raises(ClusterLost), ServiceWatch(gone, silent) as watch:
        watch.stop_if_refused()


def test_a_search_that_is_stuck_says_so_before_its_process_ends(hasty, tmp_path, monkeypatch):
    said, codes = [], []
    monkeypatch.setattr(os, "_exit", codes.append)
    stuck = ServiceWatch({"it": knock_at(str(tmp_path / "socket"))}, said.append)
    with pytest.raises(ClusterLost), stuck:
        while not codes:
            time.sleep(0.01)  # as in a question that nothing answers
    assert codes == [2] and said[0].message == "Ray's it is gone, and with it the workers"
