"""A real file system that fills up while a search writes to it."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sharetune.results.reading import attributes as record
from sharetune.search.run import run
from sharetune.search.workers import ray_cluster
from sharetune.spaces.errors import RunError
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials


@dataclass(frozen=True)
class Filling(FakeEvaluator):
    """Writes this much to the disk with each trial: `weights` bytes, or `points` of a curve in the
    storage."""

    weights: int = 1
    points: int = 1

    def evaluate(self, job, resources, listener):
        found = super().evaluate(job, resources, listener)
        (job.folder.model / "weights").write_bytes(b"x" * self.weights)
        return replace(found, curve=[[step, 0.123456] for step in range(self.points)])


@pytest.fixture
def disk(tmp_path):
    """A disk of 3 MB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path])
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


FILLED_BY = {
    "weights": {"weights": 300_000},
    "the storage": {"points": 20_000},
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FILLED_BY)
def test_a_full_disk_ends_the_search_with_one_error(disk, what):
    search_until_full(disk / "run", what, executor="local")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("what", FILLED_BY)
def test_a_full_disk_under_workers_ends_the_search_with_one_error(disk, what, monkeypatch):
    monkeypatch.setattr(ray_cluster, "MOST_PRELOADED", 0)
    search_until_full(disk / "run", what, executor="ray")


def search_until_full(out: Path, what, executor):
    """Until the disk is full; then what was told is there, and with more space it goes on."""
    fills = FILLED_BY[what]
    config = study(executor=executor, keep="all", budget={"trials": 30}, resources={"workers": 2})
    with pytest.raises(RunError) as caught:
        run(config, out=out, evaluator=Filling(**fills))
    assert caught.value.message == f"no space is left on the disk for {out}"
    assert "continue with --resume" in caught.value.hint
    before = trials(out)
    complete = [t for t in before if t.state is TrialState.COMPLETE]
    assert 4 <= len(complete) < 30
    assert all(len(t.user_attrs[record.CURVE]) == fills.get("points", 1) for t in complete)
    assert {t.state for t in before} == {TrialState.COMPLETE, TrialState.RUNNING}

    subprocess.run(["mount", "-o", "remount,size=64m", out.parent], check=True)
    run(config, out=out, resume=True, evaluator=FakeEvaluator())
    after = trials(out)
    assert [t.values for t in after[: len(before)] if t.state is TrialState.COMPLETE] == [
        t.values for t in complete
    ]
    kept = [t for t in after if "started" in t.user_attrs and t.state is not TrialState.FAIL]
    assert len(kept) == 30 and {t.state for t in kept} == {TrialState.COMPLETE}
    assert {t.user_attrs[record.REASON] for t in after if t.state is TrialState.FAIL} == {
        "interrupted"
    }
