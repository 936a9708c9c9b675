"""A Ray cluster of several nodes, all on this machine, joined by its address."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
import yaml
from optuna.trial import TrialState
from ray._private import ray_constants
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.cluster_utils import Cluster

from sharetune.search.run import run
from sharetune.search.workers import ray_cluster
from sharetune.spaces.errors import RunError
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from tests.checkpoint import write_checkpoint, write_rows
from tests.paths import ROOT
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study as fake_study
from tests.search.test_faults import prepared, study
from tests.search.test_run import trials

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A head that trains nothing and two nodes, each with the model in a place of its own."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for node in ("one", "two"):
        write_checkpoint(tmp_path / node / "model")
        places = {"MODELS": str(tmp_path / node), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        cluster.add_node(num_cpus=1, num_gpus=1, env_vars=places)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@dataclass(frozen=True)
class Telling(CandidateEvaluator):
    """Says where this machine has the model, once the other node has a trial as well."""

    def evaluate(self, job, resources, listener):
        here = Path(self.task.start).parent
        (here / "reached").touch()
        while len(list(here.parent.glob("*/reached"))) < 2:
            time.sleep(0.1)
        found = super().evaluate(job, resources, listener)
        return replace(found, circumstances=found.circumstances | {"model": self.task.start})


def test_each_node_finds_its_own_copy_of_the_model(cluster, tmp_path, monkeypatch):
    write_rows(tmp_path / "train.csv", 90)
    write_rows(tmp_path / "test.csv", 30, seed=1)
    write_checkpoint(tmp_path / "driver" / "model")
    monkeypatch.setenv("MODELS", str(tmp_path / "driver"))
    ranges = {"learning_rate": {"low": 1e-4, "high": 1e-2}, "steps": 8, "max_length": 12}
    config = study(
        tmp_path,
        model="${MODELS}/model",
        executor="ray",
        resources={"gpu": 0},
        budget={"trials": 6},
        space={"plan": [{"layers": "1..2"}], "recipe": ranges},
    )
    out = tmp_path / "run"
    run(config, out=out, address=cluster.address, evaluator=prepared(Telling, config, out))
    found = trials(out)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 6
    used = {trial.user_attrs["circumstances"]["model"] for trial in found}
    assert used == {str(tmp_path / node / "model") for node in ("one", "two")}
    assert "${MODELS}/model" in (out / "study.yaml").read_text()


def test_a_fraction_of_a_gpu_and_a_node_without_the_run_folder(cluster, tmp_path, capsys):
    config = fake_study(executor="ray", resources={"gpu": 0.5}, budget={"trials": 6})
    ray_cluster.connect(cluster.address, config)
    need = ray_cluster.worker_resources(config)
    assert need == {"CPU": 1.0, "GPU": 0.5}
    assert ray_cluster.capacity(need, 1) == 2  # of two nodes with a CPU and a GPU each
    assert ray_cluster.capacity({"CPU": 0.25, "GPU": 0.5}, 1) == 4
    ray_cluster.tell_of_missing(need, 2)
    assert capsys.readouterr().err == ""
    ray_cluster.tell_of_missing(need | {"GPU": 1.0}, 3)
    assert "a trial needs 3 GPUs, and the cluster has 2: trials wait" in capsys.readouterr().err
    ray_cluster.require_run_folder(tmp_path)
    with pytest.raises(RunError, match="does not see the run folder .*/elsewhere"):
        ray_cluster.require_run_folder(tmp_path / "elsewhere")
    run(config, out=tmp_path / "run", address=cluster.address, evaluator=FakeEvaluator())
    assert [t.state for t in trials(tmp_path / "run")] == [TrialState.COMPLETE] * 6


def test_the_cluster_file_of_the_example_is_one_that_ray_reads():
    path = ROOT / "examples" / "cluster" / "cluster.yaml"
    config = prepare_config(yaml.safe_load(path.read_text("utf-8")))
    validate_config(config)
    assert "--num-cpus=0" in config["head_start_ray_commands"][1]
