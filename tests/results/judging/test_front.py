import pytest
from optuna.trial import TrialState

from sharetune.results.judging.front import (
    hypervolume,
    hypervolume_over_trials,
    pareto_front,
    smallest_within,
)
from sharetune.results.reading.study import read_study
from sharetune.spaces.objectives import OBJECTIVES
from tests.results.conftest import complete, ended

NAN = float("nan")


def front_of(run):
    study = read_study(run)
    return pareto_front(study.frame, study.objectives)["number"].tolist()


def test_the_front_is_what_no_other_trial_beats_best_first(make_run):
    run = make_run(
        complete(0.8, 100.0),
        complete(0.9, 180.0),
        complete(0.7, 120.0),
        complete(0.85, 150.0),
        complete(0.9, 190.0),
    )
    assert front_of(run) == [1, 3, 0]


def test_equal_objectives_are_all_kept(make_run):
    assert front_of(make_run(complete(0.8, 100.0), complete(0.8, 100.0))) == [0, 1]


def test_only_trained_complete_trials_with_all_objectives_count(make_run):
    metrics = {"metrics": {"accuracy": 0.99}, "facts": {"parameters": 1.0}}
    run = make_run(
        complete(0.8, 100.0),
        complete(0.8, 100.0, same_as=0),
        complete(0.95, 90.0, metrics={"accuracy": NAN}),
        ended(TrialState.FAIL, **metrics),
        ended(TrialState.PRUNED, **metrics),
        ended(TrialState.RUNNING, **metrics),
    )
    assert front_of(run) == [0]


def test_the_front_of_no_trial_is_empty(make_run):
    study = read_study(make_run(ended(TrialState.FAIL)))
    assert len(pareto_front(study.frame, study.objectives)) == 0
    assert hypervolume(study.frame, study.objectives, study.reference) == 0.0


def test_hypervolume_is_the_share_of_the_box_up_to_the_ideal(make_run):
    # Reference (0.5, 200), ideal (1, 0): trials at (60 %, 50 %) and (80 %, 25 %) of the way.
    study = read_study(make_run(complete(0.8, 100.0), complete(0.9, 150.0)))
    share = hypervolume(study.frame, study.objectives, study.reference)
    assert share == pytest.approx(0.35)


def test_hypervolume_of_three_objectives(make_run):
    # 60 % of accuracy, 50 % of parameters, 25 % of FLOPs.
    trial = complete(0.8, 100.0) | {
        "facts": {"parameters": 100.0, "flops": 30.0},
        "values": [0.8, 100.0, 30.0],
    }
    run = make_run(
        trial,
        objectives=["accuracy", "parameters", "flops"],
        reference={"accuracy": 0.5, "parameters": 200.0, "flops": 40.0},
        directions=["maximize", "minimize", "minimize"],
    )
    study = read_study(run)
    share = hypervolume(study.frame, study.objectives, study.reference)
    assert share == pytest.approx(0.075)


def test_a_trial_beyond_the_reference_adds_nothing(make_run):
    study = read_study(make_run(complete(0.95, 250.0), complete(0.4, 10.0)))
    assert hypervolume(study.frame, study.objectives, study.reference) == 0.0


def test_hypervolume_over_trials_grows_in_order_of_completion(make_run):
    run = make_run(
        complete(0.7, 100.0),
        complete(0.6, 150.0),
        ended(TrialState.FAIL),
        complete(0.8, 100.0),
        complete(0.8, 100.0, same_as=3),
        complete(0.9, 150.0),
    )
    study = read_study(run)
    history = hypervolume_over_trials(study.frame, study.objectives, study.reference)
    assert history["trained"].tolist() == [1, 2, 3, 4]
    assert history["number"].tolist() == [0, 1, 3, 5]
    assert history["hypervolume"].tolist() == pytest.approx([0.2, 0.2, 0.3, 0.35])


def test_smallest_within_one_point_of_the_unshared_anchor(make_run):
    run = make_run(
        complete(0.90, 200.0, anchor="unshared"),
        complete(0.89, 150.0),
        complete(0.895, 160.0),
        complete(0.88, 100.0),
    )
    frame = read_study(run).frame
    assert smallest_within(frame).number == 1
    assert smallest_within(frame, points=0.5).number == 2
    assert smallest_within(frame, points=2.0).number == 3
    assert smallest_within(frame, points=0.1).number == 0


def test_smallest_within_needs_an_unshared_anchor(make_run):
    frame = read_study(make_run(complete(0.9, 200.0), complete(0.89, 150.0))).frame
    assert smallest_within(frame) is None


def test_a_single_objective_has_a_front(make_run):
    frame = read_study(make_run(complete(0.8, 100.0), complete(0.9, 150.0))).frame
    assert pareto_front(frame, [OBJECTIVES["accuracy"]])["number"].tolist() == [1]
