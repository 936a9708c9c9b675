"""Several Ray workers for one trial, for real: what they learn, and what becomes of them."""

import os
import signal
from dataclasses import dataclass

import pytest
from optuna.trial import TrialState

from sharetune.search.run import run
from sharetune.search.study_file import validate
from sharetune.search.workers import ray_cluster
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import read_task
from sharetune.trainers.training.trainer import CandidateTrainer
from tests.checkpoint import write_study_data
from tests.search.test_run import trials

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]
SPACE = {
    "plan": [{"layers": "0..3", "form": {"bank": {"ratio": {"choices": [0.25, 0.5]}}}}],
    "recipe": {
        "steps": 12,
        "learning_rate": 3e-3,
        "batch_size": 16,
        "max_length": 12,
        "dropout": 0.0,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study_data(tmp_path_factory.mktemp("team"), 90)


@pytest.fixture(scope="module", autouse=True)
def cluster(folder):
    ray_cluster.connect(None, study(folder, resources={"workers": 1, "workers_per_trial": 2}))
    yield
    ray_cluster.disconnect()


@pytest.fixture(autouse=True)
def keep_cluster(monkeypatch):
    """The run's own disconnecting would end the module's cluster."""
    monkeypatch.setattr(ray_cluster, "disconnect", lambda: None)


def study(folder, **changes):
    data = {
        "name": "team",
        "model": str(folder / "model"),
        "task": {
            "name": "text-classification",
            "train": str(folder / "train.csv"),
            "test": str(folder / "test.csv"),
        },
        "anchors": ["unshared"],
        "budget": {"trials": 2},
        "sampler": "random",
        "latency": {"rounds": 0},
        "space": SPACE,
    }
    return validate(data | changes, "study.yaml")


@pytest.mark.parametrize("shard", [False, True], ids=["copies", "shards"])
def test_two_workers_have_the_loss_curve_of_one_with_the_whole_batch(folder, tmp_path, shard):
    for name, resources in (
        ("alone", {"workers": 1}),
        ("together", {"workers": 1, "workers_per_trial": 2, "shard": shard}),
    ):
        run(study(folder, resources=resources), out=tmp_path / name)
    alone, together = (trials(tmp_path / name) for name in ("alone", "together"))
    assert len(alone) == len(together) == 2
    for one, two in zip(alone, together, strict=True):
        assert one.user_attrs["candidate"] == two.user_attrs["candidate"]
        assert one.state is two.state is TrialState.COMPLETE
        losses = [[loss for _, loss in trial.user_attrs["curve"]] for trial in (one, two)]
        assert len(losses[0]) == 12
        assert losses[1] == pytest.approx(losses[0], abs=5e-4)
        assert "workers" not in one.user_attrs["circumstances"]
        assert two.user_attrs["circumstances"]["workers"] == 2
        assert two.user_attrs["circumstances"].get("sharded", False) is shard
    assert len({trial.user_attrs["circumstances"]["pid"] for trial in together}) == 1


@dataclass(frozen=True)
class Mortal(CandidateEvaluator):
    """Its first assistant is killed at the sixth step, once the file `killed` is not there."""

    def assist(self, *args, **kwargs):
        killed, steps, real = self.task.cache / "killed", [], CandidateTrainer.training_step

        def deadly(*given):
            steps.append(1)
            if len(steps) == 6 and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given)

        CandidateTrainer.training_step = deadly
        try:
            super().assist(*args, **kwargs)
        finally:
            CandidateTrainer.training_step = real


def test_a_team_that_loses_a_worker_goes_on_from_its_checkpoint_with_another(folder, tmp_path):
    config = study(
        folder,
        resources={"workers": 1, "workers_per_trial": 2, "checkpoint_s": 0},
        early_stopping={"rungs": [0.25, 0.5]},
    )
    cache = tmp_path / "cache"
    mortal = Mortal.prepare(config.model, read_task(config.task), cache, 12)
    run(config, out=tmp_path / "run", evaluator=mortal)
    found = trials(tmp_path / "run")
    assert (tmp_path / "cache" / "killed").exists()
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 2
    assert [len(trial.user_attrs["curve"]) for trial in found] == [12] * 2
    went_on = [trial.user_attrs["circumstances"].get("continued_at") for trial in found]
    assert went_on == [[5], None]
