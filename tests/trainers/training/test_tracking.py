"""Curves, candidates and metrics in the trackers' own formats, under the trial's number."""

import importlib.util
from dataclasses import replace

import pytest

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.evaluator import Job, JobResources, Unheard
from sharetune.spaces.run_folder import RunFolder
from sharetune.trainers.training.tracking import TRACKERS, check_trackers
from tests.trainers.conftest import candidate


def tracked(evaluator, run, name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is an extra")
    tracking = replace(evaluator, trackers=(name,), study="demo")
    job = Job(7, candidate(evaluator, steps=3), RunFolder(run).trial(7))
    found = tracking.evaluate(job, JobResources(), Unheard())
    return found.scores.metrics["accuracy"]


def test_tensorboard(evaluator, tmp_path):
    accuracy = tracked(evaluator, tmp_path, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tracking" / "tensorboard" / "7"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(accuracy)
    text = events.Tensors("candidate/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "learning_rate: 0.003" in text


@pytest.mark.slow
def test_mlflow(evaluator, tmp_path):
    accuracy = tracked(evaluator, tmp_path, "mlflow")
    import mlflow

    mlflow.set_tracking_uri((tmp_path / "tracking" / "mlflow").as_uri())
    (run,) = mlflow.search_runs(experiment_names=["demo"], output_format="list")
    assert run.info.run_name == "7"
    assert run.data.metrics["accuracy"] == pytest.approx(accuracy)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == [1, 2, 3]
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/candidate.yaml")
    assert "learning_rate: 0.003" in text


@pytest.mark.slow
def test_wandb(evaluator, tmp_path):
    tracked(evaluator, tmp_path, "wandb")
    (run,) = (tmp_path / "tracking" / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))


def test_a_tracker_that_is_not_there(monkeypatch):
    with pytest.raises(ConfigError, match="unknown tracker: 'tensorbord'"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr("sharetune.trainers.training.tracking.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="tracking: wandb needs a library") as caught:
        check_trackers(["wandb"])
    assert caught.value.hint == "pip install 'sharetune[wandb]'"
    assert list(TRACKERS) == ["tensorboard", "wandb", "mlflow"]
