"""Which trainings are stopped at a rung, and that none is that could still enter the front."""

import numpy as np
import pytest
from optuna.trial import TrialState

from sharetune import results
from sharetune.search.early_stopping import NEAREST, EarlyStopper, promotion_order, promotion_place
from sharetune.search.run import run
from sharetune.search.sections import EarlyStopping
from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.objectives import OBJECTIVES
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials

TWO = [OBJECTIVES["accuracy"], OBJECTIVES["parameters"]]


def scheduler_after(finished, gain=0.2):
    """Return a stopper that saw trials, (accuracy at rung 0, parameters), end `gain` higher."""
    scheduler = EarlyStopper(TWO)
    for number, (accuracy, parameters) in enumerate(finished):
        scheduler.reached(number, 0, {"accuracy": accuracy, "parameters": parameters})
        scheduler.finished(number, {"accuracy": accuracy + gain, "parameters": parameters})
    return scheduler


EIGHT = [(0.5 + i / 100, 100.0) for i in range(NEAREST)]  # ends at 0.70 .. 0.77


def decide(scheduler, accuracy, parameters):
    return scheduler.reached(99, 0, {"accuracy": accuracy, "parameters": parameters})


def test_nothing_is_stopped_before_a_gain_is_known():
    assert decide(scheduler_after(EIGHT[:-1]), 0.0, 1e9)
    assert not decide(scheduler_after(EIGHT), 0.0, 1e9)


def test_a_training_that_could_still_enter_the_front_goes_on():
    # best end so far: 0.77 with 100 parameters; every training gained 0.2 from the rung
    assert decide(scheduler_after(EIGHT), 0.58, 100.0)  # 0.78 > 0.77
    assert not decide(scheduler_after(EIGHT), 0.54, 100.0)  # 0.74 < 0.77
    assert decide(scheduler_after(EIGHT), 0.10, 99.0)  # smaller than all that is known


def test_the_best_gain_of_the_nearest_counts_not_the_best_of_all():
    scheduler = scheduler_after(EIGHT)
    scheduler.reached(50, 0, {"accuracy": 0.1, "parameters": 100.0})
    scheduler.finished(50, {"accuracy": 0.9, "parameters": 100.0})  # gains 0.8, far from the others
    assert not decide(scheduler, 0.54, 100.0)  # 0.74, its eight nearest gained 0.2
    assert decide(scheduler, 0.11, 100.0)  # the late one is near: 0.91 > 0.9


def test_a_training_that_must_be_lucky_to_enter_the_front_goes_on():
    scheduler = EarlyStopper(TWO)
    for number in range(NEAREST):  # half of them gain 0.1, half 0.3: 0.2 +- 0.107
        gain = 0.3 if number % 2 else 0.1
        scheduler.reached(number, 0, {"accuracy": 0.5, "parameters": 100.0})
        scheduler.finished(number, {"accuracy": 0.5 + gain, "parameters": 100.0})
    assert decide(scheduler, 0.39, 100.0)  # 0.39 + 0.414 > 0.8, though 0.39 + 0.3 < 0.8
    assert not decide(scheduler, 0.38, 100.0)


def test_the_first_third_of_a_rung_goes_on_even_if_it_seems_hopeless():
    scheduler = EarlyStopper(TWO)
    for number in range(NEAREST):  # all came to 0.9, from little
        scheduler.reached(number, 0, {"accuracy": 0.1, "parameters": 100.0})
        scheduler.finished(number, {"accuracy": 0.9, "parameters": 100.0})
    for number in range(NEAREST):  # now 0.1 gains at most 0.3 among the nearest
        scheduler.reached(20 + number, 0, {"accuracy": 0.3, "parameters": 100.0})
        scheduler.finished(20 + number, {"accuracy": 0.4, "parameters": 100.0})
    assert decide(scheduler, 0.31, 100.0)  # 0.41 < 0.9, but the best of 17 at this rung
    assert not scheduler.reached(98, 0, {"accuracy": 0.29, "parameters": 200.0})


def test_a_value_that_is_no_number_is_left_to_the_end():
    assert decide(scheduler_after(EIGHT), float("nan"), 1e9)
    assert scheduler_after(EIGHT).reached(99, 0, {"parameters": 1e9})


def test_what_is_exact_gains_nothing():
    scheduler = scheduler_after(EIGHT)
    decide(scheduler, 0.5, 70.0)
    assert scheduler.expected(99) == pytest.approx([0.7, 70.0])


def test_promotion_goes_by_rank_and_then_by_distance():
    # (1, 5), (2, 4), (3, 3), (5, 1) are the front, less being better; (4, 4) is beaten by (3, 3)
    points = np.array([[4, 4], [1, 5], [2, 4], [3, 3], [5, 1]], dtype=float)
    # first the best in the first objective, then the farthest from it: (5, 1), then the middle
    assert promotion_order(points) == [1, 4, 3, 2, 0]
    assert [promotion_place(points, i) for i in range(5)] == [4, 0, 3, 2, 1]


def early(**changes):
    changes = {"sampler": "random"} | changes
    return study(early_stopping={"rungs": [0.25, 0.5]}, budget={"trials": 24}, **changes)


def stopped_and_complete(folder):
    found = [t for t in trials(folder) if "started" in t.user_attrs]
    stopped = [t for t in found if "stopped at rung" in t.user_attrs.get("reason", "")]
    return found, stopped, [t for t in found if t.state is TrialState.COMPLETE]


def test_a_stopped_trial_is_pruned_with_its_rungs_and_never_on_the_front(tmp_path):
    run(early(), out=tmp_path / "run", evaluator=FakeEvaluator(harm=0.3))
    found, stopped, complete = stopped_and_complete(tmp_path / "run")
    assert len(found) == 24 == len(stopped) + len(complete)
    assert len(stopped) >= 3
    for trial in stopped:
        assert trial.state is TrialState.PRUNED
        assert trial.values is None
        reached = trial.user_attrs["rungs"][-1]
        rung, step = (reached["rung"], reached["step"])
        assert (rung, step) in {(0, 2), (1, 4)}
        assert trial.user_attrs["reason"] == f"stopped at rung {rung}, step {step}"
        assert 0 < reached["accuracy"] < 0.5
        assert not (tmp_path / "run" / "trials" / str(trial.number)).exists()
    assert [len(t.user_attrs["rungs"]) for t in complete] == [2] * len(complete)
    frame = results.load(tmp_path / "run")
    front = results.pareto_front(frame, [OBJECTIVES[n] for n in ("accuracy", "parameters")])
    assert not {t.number for t in stopped} & set(front["number"])


def test_no_stopped_trial_would_have_been_on_the_front(tmp_path):
    run(early(), out=tmp_path / "run", evaluator=FakeEvaluator(harm=0.3))
    _, stopped, complete = stopped_and_complete(tmp_path / "run")
    for trial in stopped:
        end = (
            4 * trial.user_attrs["rungs"][0]["accuracy"]
        )  # at a quarter: the fake's accuracy grows evenly
        facts = trial.user_attrs["facts"]
        assert any(
            other.values[0] >= end
            and other.values[1] <= facts["parameters"]
            and other.values[2] <= facts["flops"]
            for other in complete
        )


@pytest.mark.slow
def test_a_resumed_search_stops_as_if_it_had_not_been_interrupted(tmp_path):
    whole = early(sampler="random")
    half = whole.model_copy(update={"budget": study(budget={"trials": 12}).budget})
    run(whole, out=tmp_path / "one", evaluator=FakeEvaluator(harm=0.3))
    run(half, out=tmp_path / "two", evaluator=FakeEvaluator(harm=0.3))
    run(whole, out=tmp_path / "two", resume=True, evaluator=FakeEvaluator(harm=0.3))
    ends = [
        [(t.state, t.values, t.user_attrs.get("reason")) for t in trials(tmp_path / name)]
        for name in ("one", "two")
    ]
    assert ends[0] == ends[1]


def test_brackets_have_their_share_of_the_trials():
    stopping = EarlyStopping(rungs=(0.125, 0.25, 0.5), eta=3, brackets=3)
    firsts = [stopping.first_rung(number) for number in range(1300)]
    assert [firsts.count(bracket) for bracket in range(3)] == [900, 300, 100]
    assert {stopping.first_rung(number) for number in range(10)} == {0, 1, 2}
    assert {EarlyStopping(rungs=(0.5,)).first_rung(number) for number in range(100)} == {0}


def test_more_brackets_than_rungs_are_refused():
    with pytest.raises(SharetuneError, match="each bracket begins one rung later"):
        EarlyStopping(rungs=(0.5,), brackets=2)


@pytest.mark.slow
def test_no_training_is_stopped_below_its_bracket(tmp_path):
    config = study(
        budget={"trials": 80},
        early_stopping={"rungs": [0.25, 0.5], "brackets": 2},
        seed=1,
    )
    run(config, out=tmp_path / "run", evaluator=FakeEvaluator(harm=0.2))
    stopped = {
        t.number: len(t.user_attrs["rungs"]) - 1
        for t in trials(tmp_path / "run")
        if t.state is TrialState.PRUNED
    }
    first = config.early_stopping.first_rung
    assert all(rung >= first(number) for number, rung in stopped.items())
    assert {first(number) for number in stopped} == {0, 1}
