"""An evaluator over a tiny checkpoint and data set, one for all tests of training."""

import pytest

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.evaluator import Job, JobResources
from sharetune.spaces.latency import LatencyRequest
from sharetune.spaces.run_folder import RunFolder
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import read_task
from tests.checkpoint import write_checkpoint, write_rows

RECIPE = Recipe(steps=60, learning_rate=3e-3, batch_size=8, max_length=12)


@pytest.fixture(scope="session")
def evaluator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluator")
    task = {
        "name": "text-classification",
        "train": str(write_rows(folder / "train.csv", 90)),
        "test": str(write_rows(folder / "test.csv", 30, seed=1)),
    }
    model = str(write_checkpoint(folder / "model"))
    return CandidateEvaluator.prepare(model, read_task(task), folder / "cache", 12)


def candidate(evaluator, plan=None, **changes):
    """A candidate that trains for a second, with changes of its recipe."""
    recipe = RECIPE.model_copy(update=changes)
    return Candidate(plan=plan or SharingPlan(), recipe=recipe).bound(evaluator.stacks)


class Listening:
    """A listener made of functions; without them every training goes on unheard."""

    def __init__(self, report=None, beat=None):
        self.rung = report or (lambda rung, metrics: True)
        self.beat = beat or (lambda in_step: None)


def evaluated(evaluator, wanted, run, *, rungs=(), report=None, beat=None, final=False, **given):
    """Train `wanted` as trial 0 of the folder `run`; `given` are a job's resources."""
    job = Job(0, wanted, RunFolder(run).trial(0), rungs, final)
    return evaluator.evaluate(job, JobResources(**given), Listening(report, beat))


def saved(run):
    """The model that :func:`evaluated` left in the folder `run`."""
    return RunFolder(run).trial(0).model


def latency(evaluator, model, **request):
    """The latency of a model on 12 tokens, as it is stored."""
    return evaluator.latency(model, LatencyRequest(**{"max_length": 12} | request)).written()
