"""A budget of hours alone makes a study from Python fit into them, once."""

import pandas as pd
import pytest

import sharetune
from sharetune.search.python import fitting
from sharetune.search.python.fitting import as_before, in_hours, is_fitted
from sharetune.search.sections import Budget
from sharetune.search.starting import NOTHING_LIVE
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.pace import Pace
from tests.checkpoint import write_checkpoint, write_rows
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study


@pytest.mark.parametrize(
    ("budget", "fits"),
    [
        (None, False),
        (24, False),
        ({"wall_hours": 2}, True),
        ({"wall_hours": 2, "trials": 24}, False),
        ({"trials": 24}, False),
        ({"cpu_hours": 2}, False),
        (Budget(wall_hours=2), True),
        (Budget(wall_hours=2, trials=24), False),
    ],
    ids=str,
)
def test_which_budgets_are_fitted(budget, fits):
    assert is_fitted(budget) is fits


@pytest.fixture
def paced(monkeypatch):
    """Steps of 2 s, 20 s of a trial besides them, on one worker."""
    pace = Pace(load_s=10.0, step_s=2.0, judge_s=1e-6, memory=0)
    monkeypatch.setattr(FakeEvaluator, "rehearse", lambda *_: pace)
    monkeypatch.setattr("sharetune.search.starting.real_evaluator", lambda *_: FakeEvaluator())


def in_half_an_hour(**changes):
    space = {"plan": [{"layers": "0..-1"}], "recipe": {"steps": 100, "batch_size": 16}}
    return study(budget={"wall_hours": 0.5}, space=space, **changes)


def test_trials_and_steps_fit(paced):
    # 60 % of 1,800 s: ten trials of 108 s, of which 88 s are steps
    found = in_hours(in_half_an_hour(), {}, NOTHING_LIVE)
    assert (found.budget.trials, found.budget.wall_hours) == (10, 0.5)
    assert found.space.recipe["steps"] == 44 and found.space.recipe["batch_size"] == 16


def test_a_length_that_was_given_stays(paced):
    config = in_half_an_hour(latency={"rounds": 7})
    given = {"space": {"recipe": {"steps": 100}}, "latency": {"rounds": 7}}
    found = in_hours(config, given, NOTHING_LIVE)
    assert found.budget.trials == 4  # of 220 s each
    assert found.space.recipe["steps"] == 100 and found.latency.rounds == 7


def test_hours_in_which_nothing_is_trained(paced):
    config = study(budget={"wall_hours": 0.01})
    with pytest.raises(ConfigError, match="10 trials take more than 0.01 hours"):
        in_hours(config, {}, NOTHING_LIVE)


def test_a_run_that_goes_on_is_not_fitted_again(paced, monkeypatch):
    config = in_half_an_hour()
    stored = in_hours(config, {}, NOTHING_LIVE).model_dump(mode="json")
    monkeypatch.setattr(fitting, "rehearsed", None)
    again = as_before(config, {}, stored)
    assert again.model_dump(mode="json") == stored


@pytest.mark.slow
def test_a_search_of_given_hours_and_its_resuming(tmp_path):
    data = pd.read_csv(write_rows(tmp_path / "train.csv", 60))
    asked = {
        "task": "text-classification",
        "budget": {"wall_hours": 0.01},
        "executor": "local",
        "out": tmp_path / "run",
        "latency": {"rounds": 0},
    }
    model = write_checkpoint(tmp_path / "model", layers=2)
    first = sharetune.search(model, data, **asked)
    config = first.study.config
    assert config["budget"]["wall_hours"] == 0.01 and 10 <= config["budget"]["trials"] <= 100
    again = sharetune.search(model, data, resume=True, **asked)
    assert again.study.config["space"] == config["space"]
