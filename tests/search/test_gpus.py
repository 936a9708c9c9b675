"""How many trainings share a GPU."""

import os
from dataclasses import replace
from itertools import pairwise

import pytest
import ray

from sharetune.search.gpus import gpu_of_each, workers_of
from sharetune.search.run import run
from sharetune.search.study_file import validate
from sharetune.search.workers import ray_cluster
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.pace import Pace
from tests.checkpoint import write_study_data
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials

GIB = 1024**3
PACE = Pace(1.0, 0.5, 0.01, memory=7 * GIB, held=3 * GIB, gpus=2, gpu_memory=80 * GIB)
"""Two GPUs of 80 GiB, of which a training held 7."""


def settings(gpu="auto", batch_size=16, **resources):
    space = {"recipe": {"steps": 1, "batch_size": batch_size}}
    return study(executor="ray", resources={"gpu": gpu, **resources}, space=space)


@pytest.mark.parametrize(
    ("config", "pace", "each", "workers"),
    [
        (settings(), PACE, 0.1111, 18),  # 72 GiB for trainings of 7.6
        (settings(cpu=4), PACE, 0.125, 16),  # 64 cores for 16 workers
        (settings(workers=3), PACE, 0.5, 3),
        (settings(batch_size={"choices": [64, 16]}), PACE, 0.3333, 6),  # 19 GiB with 64
        (settings(), replace(PACE, memory=50 * GIB), 1.0, 2),
        (settings(), replace(PACE, memory=90 * GIB), 1.0, 2),  # trained in parts
        (settings(), replace(PACE, gpu_memory=0), 1.0, 2),
        (settings(), replace(PACE, gpus=0), 0.0, 64),
        (settings(workers_per_trial=2), PACE, 1.0, 1),
        (settings(None), PACE, 1.0, 2),
        (settings(0.5), PACE, 0.5, 4),
        (settings(0), PACE, 0.0, 64),
    ],
)
def test_parts_of_a_gpu(config, pace, each, workers):
    assert gpu_of_each(config, pace, cores=64) == each
    assert workers_of(config, pace, cores=64) == workers


def test_without_a_rehearsal_cores_count():
    assert workers_of(settings(), None, cores=64) == 64
    assert workers_of(study(), None, cores=64) == 1


@pytest.mark.parametrize("gpu", [-1, 1.5, "all"])
def test_other_values_are_refused(gpu):
    with pytest.raises(ConfigError, match="gpu"):
        settings(gpu)


class Weighed(FakeEvaluator):
    """A training holds 20 of 80 GiB; each trial notes what Ray gave to its worker."""

    def rehearse(self, candidate, resources):
        return replace(PACE, memory=20 * GIB, held=20 * GIB)

    def evaluate(self, job, resources, listener):
        found = super().evaluate(job, resources, listener)
        given = ray.get_runtime_context().get_assigned_resources()["GPU"]
        return replace(found, circumstances={"gpu": given})


@pytest.mark.slow
@pytest.mark.xdist_group("a cluster with a GPU")
def test_ray_gives_each_worker_its_part(tmp_path, monkeypatch):
    """The cluster counts one GPU, which it need not have."""
    os.environ.update(ray_cluster.QUIET)
    monkeypatch.setattr(ray_cluster, "disconnect", lambda: None)
    ray.init(address="local", num_cpus=6, num_gpus=1, include_dashboard=False, log_to_driver=False)
    asked, out = {"executor": "ray", "resources": {"gpu": "auto"}}, tmp_path / "run"
    try:
        run(study(**asked, budget={"trials": 4}), out=out, evaluator=Weighed())
        run(study(**asked, budget={"trials": 6}), out=out, evaluator=Weighed(), resume=True)
        found = [t.user_attrs for t in trials(out) if "started" in t.user_attrs]
        given = [each["circumstances"]["gpu"] for each in found]
        assert given == [pytest.approx(1 / 3, abs=1e-3)] * 6
    finally:
        ray.shutdown()


@pytest.mark.gpu
def test_trials_share_a_gpu(tmp_path):
    """Two trainings of a tiny model run on one GPU at a time."""
    folder = write_study_data(tmp_path, 90)
    splits = {split: str(folder / f"{split}.csv") for split in ("train", "test")}
    asked = {
        "name": "packed",
        "model": str(folder / "model"),
        "task": {"name": "text-classification", **splits},
        "anchors": ["tied", "drop-half"],
        "budget": {"trials": 3},
        "resources": {"gpu": "auto", "workers": 2},
        "latency": {"rounds": 0},
        "space": {
            "plan": [{"layers": "1..2"}],
            "recipe": {"steps": 100, "batch_size": 8, "max_length": 12},
        },
    }
    run(validate(asked, "study.yaml"), out=tmp_path / "run")
    found = [t for t in trials(tmp_path / "run") if t.datetime_complete is not None]
    assert len(found) == 3
    starts = sorted((t.datetime_start, t.datetime_complete) for t in found)
    assert any(later[0] < earlier[1] for earlier, later in pairwise(starts))
