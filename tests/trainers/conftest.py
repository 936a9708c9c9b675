"""A trainee over a tiny checkpoint and data set, one for all tests of training."""

import pytest

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.trainers.evaluation.evaluator import Trainee, shapes
from sharetune.trainers.tasks.base import read_task
from tests.checkpoint import write_checkpoint, write_rows

RECIPE = Recipe(steps=60, learning_rate=3e-3, batch_size=8, max_length=12)


@pytest.fixture(scope="session")
def trainee(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainee")
    task = {
        "name": "text-classification",
        "train": str(write_rows(folder / "train.csv", 90)),
        "test": str(write_rows(folder / "test.csv", 30, seed=1)),
    }
    model = str(write_checkpoint(folder / "model"))
    return Trainee(model, read_task(task), folder / "cache")


@pytest.fixture(scope="session")
def facts(trainee):
    return trainee.prepare(12)


def candidate(facts, plan=None, **changes):
    """A candidate that trains for a second, with changes of its recipe."""
    recipe = RECIPE.model_copy(update=changes)
    return Candidate(plan=plan or SharingPlan(), recipe=recipe).bound(shapes(facts))
