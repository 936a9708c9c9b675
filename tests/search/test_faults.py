"""What real trainings do when something happens to them, and what the storage says afterwards.

Faults of the fake evaluator are in `test_run`, `test_ray_tune` and `test_disk_full`, kills at
random moments in `test_kills`.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from sharetune.results.reading import attributes as record
from sharetune.search.run import run
from sharetune.search.study_file import validate
from sharetune.search.workers import ray_cluster
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import read_task
from tests.checkpoint import write_study_data
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study as fake_study
from tests.search.test_run import trials

STEPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study_data(tmp_path_factory.mktemp("faults"), 90)


def study(folder, **changes):
    """One trial, of the plan `changes` gives or of the unshared model, with a checkpoint at
    every step."""
    task = {"name": "text-classification"}
    task |= {split: str(folder / f"{split}.csv") for split in ("train", "test")}
    recipe = {"steps": STEPS, "learning_rate": 3e-3, "batch_size": 8, "max_length": 12}
    data = {
        "name": "faults",
        "model": str(folder / "model"),
        "task": task,
        "anchors": ["tied"],
        "budget": {"trials": 1},
        "executor": "local",
        "resources": {"workers": 1, "checkpoint_s": 0},
        "latency": {"rounds": 0},
        "space": {"plan": [{"layers": "1..2"}], "recipe": recipe | {"soften": "interpolate"}},
    }
    return validate(data | changes, "study.yaml")


def prepared(kind, config, out, **fields):
    """An evaluator of the class `kind` for the study's model and task."""
    cache = out.parent / "cache"  # a new run empties its own
    return kind.prepare(config.model, read_task(config.task), cache, 12, **fields)


class Overhearing:
    """A listener that passes all on, and beats on to `beat` first."""

    def __init__(self, listener, beat):
        self.rung, self.listener, self.heard = listener.rung, listener, beat

    def beat(self, in_step):
        self.heard(in_step)
        self.listener.beat(in_step)


@dataclass(frozen=True)
class Hungry(CandidateEvaluator):
    """Whole batches ask the allocator `device` for more than any machine has."""

    device: str = "cpu"

    def evaluate(self, job, resources, listener):
        def beat(in_step):
            if resources.accumulation == 1:
                torch.empty(2**46, dtype=torch.uint8, device=self.device)

        return super().evaluate(job, resources, Overhearing(listener, beat))


@dataclass(frozen=True)
class Insatiable(CandidateEvaluator):
    """Every batch asks for a list that no machine can hold."""

    def evaluate(self, job, resources, listener):
        greedy = Overhearing(listener, lambda in_step: [0] * 2**60)
        return super().evaluate(job, resources, greedy)


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_a_batch_that_memory_cannot_hold_is_trained_in_parts(folder, tmp_path, device):
    config, out = study(folder), tmp_path / "run"
    run(config, out=out, evaluator=prepared(Hungry, config, out, device=device))
    (trial,) = trials(out)
    assert trial.state is TrialState.COMPLETE
    assert trial.user_attrs["circumstances"]["accumulation"] == 2
    assert len(trial.user_attrs["curve"]) == STEPS


@pytest.mark.slow
def test_a_candidate_that_no_memory_can_hold_is_told_as_its_fault(folder, tmp_path):
    config, out = study(folder), tmp_path / "run"
    run(config, out=out, evaluator=prepared(Insatiable, config, out))
    (trial,) = trials(out)
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.PRUNED, "out of memory: ")
    assert trial.user_attrs["error"]["kind"] == "OutOfMemory"
    assert "MemoryError" in trial.user_attrs["error"]["traceback"]


@dataclass(frozen=True)
class Mortal(CandidateEvaluator):
    """Its process is killed at the steps `at`, one after the other, once each."""

    at: tuple[int, ...] = (9, 17)

    def evaluate(self, job, resources, listener):
        died = job.folder.run.path / "died"
        before = len(died.read_text()) if died.exists() else 0
        steps = []

        def beat(in_step):
            steps.extend([1] if in_step else [])
            done = (job.folder.checkpoints / "1").glob("checkpoint-*")
            step = max([int(path.name.rpartition("-")[2]) for path in done], default=0) + 1
            if in_step and before < len(self.at) and step == self.at[before]:
                died.write_text("x" * (before + 1))
                os.kill(os.getpid(), signal.SIGKILL)

        return super().evaluate(job, resources, Overhearing(listener, beat))


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_training_whose_workers_die_goes_on_and_ends_as_if_they_had_not(folder, tmp_path):
    """More of them than a trial that leaves no checkpoint could lose."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(study(folder), out=whole)
    config = study(folder, executor="ray")
    run(config, out=cut, evaluator=prepared(Mortal, config, cut, at=(5, 9, 13, 17)))
    (one,), (two,) = trials(whole), trials(cut)
    assert two.user_attrs["circumstances"]["continued_at"] == [4, 8, 12, 16]
    assert (one.state, two.state) == (TrialState.COMPLETE, TrialState.COMPLETE)
    assert one.values == two.values
    assert one.user_attrs["curve"] == two.user_attrs["curve"]
    assert weights(whole, 0) == weights(cut, 0)
    assert not (cut / "trials" / "0" / "checkpoints").exists()


def weights(out: Path, number: int) -> bytes:
    return (out / "trials" / str(number) / "model" / "model.safetensors").read_bytes()


class DriverDied(BaseException):
    """Ends the process that searches, which here is ours, at any instant."""


@dataclass(frozen=True)
class Leaving(CandidateEvaluator):
    def evaluate(self, job, resources, listener):
        steps = []

        def beat(in_step):
            steps.extend([1] if in_step else [])
            if len(steps) == 9:
                raise DriverDied

        return super().evaluate(job, resources, Overhearing(listener, beat))


@pytest.mark.slow
def test_a_training_that_the_driver_left_goes_on_when_the_search_is_resumed(folder, tmp_path):
    config, out, whole = study(folder), tmp_path / "run", tmp_path / "whole"
    with pytest.raises(DriverDied):
        run(config, out=out, evaluator=prepared(Leaving, config, out))
    run(config, out=out, resume=True)
    run(config, out=whole)
    left, found = trials(out)
    assert (left.state, left.user_attrs[record.REASON]) == (TrialState.FAIL, "interrupted")
    assert found.user_attrs["circumstances"]["continued_at"] == [8]
    assert found.values == trials(whole)[0].values
    assert weights(out, 1) == weights(whole, 0)
    assert [path.name for path in (out / "trials").iterdir()] == ["1"]
    assert [path.name for path in (out / "trials" / "1").iterdir()] == ["model"]


@dataclass(frozen=True)
class Stuck(FakeEvaluator):
    """A step of the plan that ties all layers never ends."""

    def evaluate(self, job, resources, listener):
        listener.beat(True)
        if "0..5 tie" in str(job.candidate.plan):
            signal.pause()
        listener.beat(False)
        return super().evaluate(job, resources, listener)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_training_without_a_heartbeat_is_ended_and_the_search_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "MOST_PRELOADED", 0)
    limits = {"heartbeat_s": 1, "time_limit_s": 600}
    config = fake_study(executor="ray", resources=limits, budget={"trials": 4})
    run(config, out=tmp_path / "run", evaluator=Stuck())
    found = trials(tmp_path / "run")
    assert (found[1].state, found[1].user_attrs["reason"]) == (
        TrialState.PRUNED,
        "made no step within 1 s",
    )
    assert "signal.pause" not in found[1].user_attrs["error"]["message"]
    assert "test_faults.py" in found[1].user_attrs["error"]["traceback"]
    assert [t.state for t in found[:1] + found[2:]] == [TrialState.COMPLETE] * 3


@dataclass(frozen=True)
class Stopped(FakeEvaluator):
    """The process that trains the plan that ties all layers stands still, outside a step."""

    def evaluate(self, job, resources, listener):
        if "0..5 tie" in str(job.candidate.plan):
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().evaluate(job, resources, listener)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_stopped_worker_is_noticed_and_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "MOST_PRELOADED", 0)
    config = fake_study(
        executor="ray", resources={"heartbeat_s": 3, "workers": 1}, budget={"trials": 4}
    )
    run(config, out=tmp_path / "run", evaluator=Stopped())
    found = trials(tmp_path / "run")
    stopped = found[1]
    assert (stopped.state, stopped.user_attrs["reason"]) == (
        TrialState.PRUNED,
        "made no step within 3 s",
    )
    assert "stood still and was ended by the driver" in stopped.user_attrs["error"]["traceback"]
    assert (stopped.datetime_complete - stopped.datetime_start).total_seconds() < 3 + 10
    assert [t.state for t in found[:1] + found[2:]] == [TrialState.COMPLETE] * 3
    assert not (tmp_path / "run" / "workers").exists()
