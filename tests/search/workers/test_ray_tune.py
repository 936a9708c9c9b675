"""Ray Tune workers, for real, on one cluster a session."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sharetune.search.run import run
from sharetune.search.starting import refuse_unfit
from sharetune.search.workers import ray_cluster
from sharetune.spaces.errors import ConfigError, RunError
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials

pytestmark = pytest.mark.xdist_group("ray")  # one cluster for all of them


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray_cluster.MOST_PRELOADED = 0  # the fake evaluator needs no torch
    ray_cluster.connect(None, study(executor="ray"))
    yield
    ray_cluster.disconnect()


@pytest.fixture(autouse=True)
def keep_cluster(monkeypatch):
    """The run's own disconnecting would end the session's cluster."""
    monkeypatch.setattr(ray_cluster, "disconnect", lambda: None)


@pytest.mark.slow
def test_workers_train_the_whole_budget_and_stay_warm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Pid(FakeEvaluator):
        def evaluate(self, job, resources, listener):
            found = super().evaluate(job, resources, listener)
            return replace(found, circumstances={"pid": os.getpid()})

    run(study(executor="ray"), out=Path("run"), evaluator=Pid())
    assert (tmp_path / "run" / "trials" / "0" / "model" / "weights").exists()
    found = [t for t in trials(tmp_path / "run") if "started" in t.user_attrs]
    assert [t.state for t in found] == [TrialState.COMPLETE] * 10
    pids = {t.user_attrs["circumstances"]["pid"] for t in found}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "state"), [("nan", "PRUNED"), ("raise", "FAIL")])
def test_faults_on_workers_end_in_the_right_state(tmp_path, fault, state):
    fake = FakeEvaluator(faults=(("0..5 tie", fault),))
    run(study(executor="ray"), out=tmp_path / "run", evaluator=fake)
    found = trials(tmp_path / "run")
    assert found[1].state.name == state
    assert TrialState.RUNNING not in {t.state for t in found}
    assert len([t for t in found if "started" in t.user_attrs]) == 10


@pytest.mark.slow
def test_a_candidate_that_kills_its_worker_fails_and_the_search_goes_on(tmp_path):
    fake = FakeEvaluator(faults=(("0..5 tie", "kill"),), folder=tmp_path)
    run(study(executor="ray", budget={"trials": 6}), out=tmp_path / "run", evaluator=fake)
    tied = trials(tmp_path / "run")[1]
    assert (tied.state, tied.user_attrs["reason"]) == (TrialState.FAIL, "worker lost")
    complete = [t for t in trials(tmp_path / "run") if t.state is TrialState.COMPLETE]
    assert len(complete) == 5
    attempts = [json.loads(path.read_text())["plan"] for path in tmp_path.glob("*.json")]
    assert attempts.count(tied.user_attrs["candidate"]["plan"]) == 3


@pytest.mark.slow
def test_one_worker_gives_the_same_search_twice(tmp_path):
    one = study(executor="ray", resources={"workers": 1}, budget={"trials": 8})
    for name in ("a", "b"):
        run(one, out=tmp_path / name, evaluator=FakeEvaluator())
    runs = [
        [(t.user_attrs["candidate"], t.values) for t in trials(tmp_path / name)] for name in "ab"
    ]
    assert runs[0] == runs[1]


@pytest.mark.slow
def test_finalists_run_on_the_same_workers_once_the_search_is_over(tmp_path):
    class Pid(FakeEvaluator):
        def evaluate(self, job, resources, listener):
            found = super().evaluate(job, resources, listener)
            return replace(found, circumstances={"pid": os.getpid()})

    config = study(executor="ray", budget={"trials": 6}, finalists={"seeds": 2})
    run(config, out=tmp_path / "run", evaluator=Pid(folder=tmp_path, seconds=0.05))
    found = trials(tmp_path / "run")
    again = [t for t in found if "finalist" in t.user_attrs]
    assert len(again) >= 8
    assert {t.state for t in found} == {TrialState.COMPLETE}
    ends = [t.datetime_complete for t in found if t not in again]
    assert min(t.datetime_start for t in again) >= max(ends)
    assert len(list(tmp_path.glob("*.json"))) == 6 + len(again)
    assert len({t.user_attrs["circumstances"]["pid"] for t in found}) <= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"recipe": {"optimizer": {"choices": ["adamw", "adafactor"]}}}, "optimizer: adafactor"),
        ({"compression": {"magnitude": 0.2, "recover": 0.1}}, "compression.recover"),
    ],
    ids=["optimizer", "recover"],
)
def test_what_cannot_be_sharded_is_refused_before_any_is_trained(space, named):
    resources = {"workers_per_trial": 2, "shard": True}
    config = study(executor="ray", resources=resources, space={"recipe": {"steps": 1}} | space)
    with pytest.raises(ConfigError, match=named) as caught:
        refuse_unfit(config, FakeEvaluator())
    assert caught.value.hint == "leave it out of the space, or shard out of the resources"


@pytest.mark.slow
def test_what_workers_of_one_trial_cannot_do_is_refused_before_any_is_trained(tmp_path):
    together = study(
        executor="ray",
        resources={"workers_per_trial": 4},
        space={"recipe": {"steps": 1, "batch_size": {"choices": [8, 2]}}},
    )
    with pytest.raises(ConfigError, match="a batch of 2 has no example for each of 4") as caught:
        run(together, out=tmp_path / "run", evaluator=FakeEvaluator())
    assert caught.value.hint == (
        "set recipe.batch_size to at least 4: it is what all workers of a trial train on together"
    )
    gpus = study(executor="ray", resources={"workers_per_trial": 2, "gpu": 1})
    with pytest.raises(RunError, match="a trial needs 2 GPUs, and this machine has 0") as caught:
        ray_cluster.require_gpus(gpus)
    assert "or join a cluster with --address" in caught.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_workers_stop_at_rungs_and_go_on_with_the_next_job(tmp_path):
    rungs = {
        "early_stopping": {"rungs": [0.25, 0.5]},
        "budget": {"trials": 24},
        "sampler": "random",
    }
    run(study(executor="ray", **rungs), out=tmp_path / "run", evaluator=FakeEvaluator(harm=0.3))
    found = [t for t in trials(tmp_path / "run") if "started" in t.user_attrs]
    stopped = [t for t in found if "stopped at rung" in t.user_attrs.get("reason", "")]
    assert len(found) == 24
    assert len(stopped) >= 2
    assert {t.state for t in stopped} == {TrialState.PRUNED}
    assert {t.state for t in found if t not in stopped} == {TrialState.COMPLETE}


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended_and_the_search_goes_on(tmp_path):
    fake = FakeEvaluator(faults=(("0..5 tie", "hang"),), folder=tmp_path)
    limited = {"resources": {"time_limit_s": 1}, "budget": {"trials": 4}}
    run(study(executor="ray", **limited), out=tmp_path / "run", evaluator=fake)
    found = trials(tmp_path / "run")
    assert (found[1].state, found[1].user_attrs["reason"]) == (
        TrialState.PRUNED,
        "took longer than 1 s",
    )
    assert "fakes.py" in found[1].user_attrs["error"]["traceback"]
    assert [t.state for t in found[:1] + found[2:]] == [TrialState.COMPLETE] * 3
    assert len(list(tmp_path.glob("*.json"))) == 4  # not tried again
