"""A search ends by hours and by stagnation, and a resumed one goes on counting."""

from datetime import datetime, timedelta

import pytest
from optuna.trial import TrialState, create_trial

from sharetune.results.reading.trial import Trial
from sharetune.search.budget import Growth, Spending, spent
from sharetune.search.run import run
from sharetune.search.sections import Budget, Resources
from sharetune.spaces.objectives import OBJECTIVES
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials

NOON = datetime(2026, 1, 1, 12)


def trial(start, end):
    """A trial that ran from `start` to `end` minutes after noon."""
    found = create_trial(state=TrialState.FAIL)
    found.datetime_start = NOON + timedelta(minutes=start)
    found.datetime_complete = NOON + timedelta(minutes=end)
    return Trial.of(found)


def test_hours_are_those_of_trials_and_pauses_cost_nothing():
    spending = Spending(Resources(cpu=4, gpu=0.5))
    for start, end in ((0, 30), (10, 40), (100, 120)):  # two at once, then an hour's pause
        spending.add(trial(start, end))
    assert spending.wall == pytest.approx(1.0)  # 12:00 to 12:40, 13:40 to 14:00
    assert spending.cpu == pytest.approx(4 * 80 / 60)
    assert spending.gpu == pytest.approx(0.5 * 80 / 60)
    both = Spending(Resources(cpu=3, gpu=1, workers_per_trial=2))
    both.add(trial(0, 30))
    assert (both.wall, both.cpu, both.gpu) == (0.5, 3.0, 1.0)


def test_what_is_spent_is_said():
    spending = Spending(Resources(cpu=2))
    spending.add(trial(0, 90))
    assert spent(Budget(wall_hours=2, cpu_hours=4), spending, None) is None
    assert spent(Budget(cpu_hours=3), spending, None) == (
        "3.00 cpu hours are spent, at most 3 allowed"
    )


def test_growth_is_a_fraction_of_the_hypervolume_over_the_window():
    growth = Growth([OBJECTIVES["accuracy"], OBJECTIVES["parameters"]], [0.0, 10.0], window=2)
    growth.add([(0.5, 2.0)])  # 0.5 x 8 = 4
    growth.add([(0.5, 2.0)])
    assert growth.over_window() is None
    growth.add([(0.5, 2.0), (0.75, 6.0)])  # 4 + 0.25 x 4 = 5
    assert growth.over_window() == pytest.approx(0.2)
    growth.add([(0.5, 2.0), (0.75, 6.0)])
    growth.add([(0.5, 2.0), (0.75, 6.0)])
    assert growth.over_window() == 0.0


def test_a_front_that_stopped_growing_ends_the_search(tmp_path):
    budget = {"trials": 60, "stagnation": {"window": 3, "gain": 1.0}}
    run(study(budget=budget), out=tmp_path / "run", evaluator=FakeEvaluator())
    assert len(trials(tmp_path / "run")) == 4  # a window of 3 is there after 4 trials
    run(study(budget=budget), out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
    assert len(trials(tmp_path / "run")) == 4
    run(study(budget={"trials": 6}), out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
    assert len(trials(tmp_path / "run")) == 6


def test_hours_end_the_search(tmp_path, capsys):
    budget = {"trials": 60, "wall_hours": 0.1 / 3600}
    run(study(budget=budget), out=tmp_path / "run", evaluator=FakeEvaluator(seconds=0.06))
    assert len(trials(tmp_path / "run")) in (1, 2)
    assert "the search ends: 0.00 wall hours are spent" in capsys.readouterr().err


def test_a_clock_that_is_set_does_not_spend_hours():
    """The time of day jumps by ten hours while the first trial runs, and back before the second."""
    spending = Spending(Resources(cpu=2))
    noon = datetime(2026, 1, 1, 12)
    for number, (hours, first, last) in enumerate([(10, 0.0, 1800.0), (-10, 900.0, 3600.0)]):
        trial = Trial(
            number,
            TrialState.COMPLETE,
            {},
            ran={"process": "a", "from": first, "to": last},
            began=noon,
            ended=noon + timedelta(hours=hours),
        )
        spending.add(trial)
    assert (spending.wall, spending.trials, spending.cpu) == (1.0, 1.25, 2.5)
