"""A search from start to report with the fake evaluator: budget, memory, faults, resuming."""

import json
import math

import optuna
import pytest
from optuna.trial import TrialState

from sharetune import results
from sharetune.results.reading import attributes as record
from sharetune.results.reading.location import Location
from sharetune.search.run import run
from sharetune.search.study.writer import StudyWriter
from sharetune.spaces.errors import RunError
from sharetune.spaces.objectives import OBJECTIVES
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study


def trials(folder):
    with Location.of(folder).reading() as storage:
        return optuna.load_study(study_name=None, storage=storage).get_trials()


def states(folder):
    return [trial.state for trial in trials(folder)]


@pytest.mark.report
def test_anchors_come_first_and_the_budget_is_exact(tmp_path):
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator(folder=tmp_path))
    found = trials(tmp_path / "run")
    assert [t.user_attrs.get("anchor") for t in found[:4]] == [
        "unshared",
        "tied",
        "drop-third",
        "drop-half",
    ]
    assert len([t for t in found if "started" in t.user_attrs]) == 10
    assert len(list(tmp_path.glob("*.json"))) == 10
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("trials", "left_out"),
    [(2, "left out, as the budget is spent: drop-third, drop-half"), (4, "")],
)
def test_anchors_that_the_budget_leaves_out_are_named(tmp_path, capsys, trials, left_out):
    run(study(budget={"trials": trials}), out=tmp_path / "run", evaluator=FakeEvaluator())
    said = capsys.readouterr().err
    assert ("left out" in said) == bool(left_out) and left_out in said


def test_every_trial_carries_what_was_found(tmp_path):
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    frame = results.load(tmp_path / "run")
    complete = frame[frame["state"] == "COMPLETE"]
    assert len(complete) == 10
    for column in ("accuracy", "macro_f1", "parameters", "flops", "bytes", "effective_ratio"):
        assert complete[column].notna().all(), column
    unshared = complete[complete["anchor"] == "unshared"].iloc[0]
    assert (unshared["parameters"], unshared["latency_ms"]) == (22_000_000, 10.0)


def test_the_objectives_have_their_names_in_the_optuna_study(tmp_path):
    """By which optuna-dashboard and Optuna's own figures label them."""
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    storage = f"sqlite:///{tmp_path / 'run' / 'study.db'}"
    (name,) = optuna.get_all_study_names(storage)
    found = optuna.load_study(study_name=name, storage=storage)
    assert found.metric_names == list(study().objectives)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_candidates(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        run(study(seed=seed), out=tmp_path / name, evaluator=FakeEvaluator())
    keys = [
        [json.dumps(t.user_attrs["candidate"], sort_keys=True) for t in trials(tmp_path / name)]
        for name in ("one", "two", "three")
    ]
    assert keys[0] == keys[1] != keys[2]
    assert [t.values for t in trials(tmp_path / "one")] == [
        t.values for t in trials(tmp_path / "two")
    ]


def test_an_equal_candidate_is_answered_from_memory(tmp_path):
    space = {
        "plan": [{"layers": "1..4", "init": {"choices": ["first", "last"]}}],
        "recipe": {"steps": 1},
    }
    run(study(space=space), out=tmp_path / "run", evaluator=FakeEvaluator(folder=tmp_path))
    found = trials(tmp_path / "run")
    repeats = [t for t in found if "same_as" in t.user_attrs]
    assert len(list(tmp_path.glob("*.json"))) == 4 + 2
    assert repeats
    for repeat in repeats:
        original = found[repeat.user_attrs["same_as"]]
        assert repeat.values == original.values
        assert repeat.user_attrs["candidate"] == original.user_attrs["candidate"]


def test_a_candidate_over_budget_is_refused_before_training(tmp_path):
    budget = {"trials": 8, "max_parameters": 20_000_000}
    run(study(budget=budget), out=tmp_path / "run", evaluator=FakeEvaluator(folder=tmp_path))
    found = trials(tmp_path / "run")
    refused = [t for t in found if "over budget" in t.user_attrs.get("reason", "")]
    assert found[0] in refused
    assert found[0].user_attrs["reason"] == (
        "over budget: 22,000,000 parameters, at most 20,000,000 allowed"
    )
    assert all(t.state is TrialState.PRUNED for t in refused)
    assert len(list(tmp_path.glob("*.json"))) == 8
    trained = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert all(item["plan"]["groups"] for item in trained)


@pytest.mark.parametrize(
    ("fault", "state", "reason"),
    [
        ("nan", TrialState.PRUNED, "accuracy is nan"),
        pytest.param("none", TrialState.PRUNED, "accuracy is None", marks=pytest.mark.slow),
        pytest.param(
            "fault", TrialState.PRUNED, "the loss is nan at step 3", marks=pytest.mark.slow
        ),
        pytest.param(
            "memory",
            TrialState.PRUNED,
            "out of memory: tried to allocate 2 GiB",
            marks=pytest.mark.slow,
        ),
        ("raise", TrialState.FAIL, None),
    ],
)
def test_a_faulty_trial_ends_in_the_right_state_and_the_search_goes_on(
    tmp_path, fault, state, reason
):
    fake = FakeEvaluator(faults=(("0..5 tie", fault),))
    run(study(), out=tmp_path / "run", evaluator=fake)
    tied = trials(tmp_path / "run")[1]
    assert tied.user_attrs["anchor"] == "tied"
    assert (tied.state, tied.user_attrs.get("reason")) == (state, reason)
    if fault == "raise":
        assert tied.user_attrs["error"]["message"] == "matrix on fire"
        assert "RuntimeError: matrix on fire" in tied.user_attrs["error"]["traceback"]
    assert TrialState.RUNNING not in states(tmp_path / "run")
    assert len([t for t in trials(tmp_path / "run") if "started" in t.user_attrs]) == 10


def test_a_trial_out_of_memory_is_tried_again_with_half_batches(tmp_path):
    fake = FakeEvaluator(faults=(("0..5 tie", "whole batches"),), folder=tmp_path)
    run(study(budget={"trials": 3}), out=tmp_path / "run", evaluator=fake)
    found = trials(tmp_path / "run")
    assert [t.state for t in found] == [TrialState.COMPLETE] * 3
    assert [t.user_attrs["circumstances"]["accumulation"] for t in found] == [1, 2, 1]
    assert len(list(tmp_path.glob("*.json"))) == 3 + 1


def test_an_interrupted_search_resumes_to_exactly_its_budget(tmp_path):
    out = tmp_path / "run"
    stopping = FakeEvaluator(faults=(("bank", "interrupt"),), folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(study(), out=out, evaluator=stopping)
    before = trials(out)
    assert before[-1].state is TrialState.RUNNING
    run(study(), out=out, resume=True, evaluator=FakeEvaluator(folder=tmp_path))

    after = trials(out)
    interrupted = after[before[-1].number]
    assert (interrupted.state, interrupted.user_attrs["reason"]) == (TrialState.FAIL, "interrupted")
    finished = [
        t for t in after if t.state is TrialState.COMPLETE and "same_as" not in t.user_attrs
    ]
    assert len(finished) == 10
    wanted = before[-1].user_attrs["candidate"]
    assert [t.user_attrs["candidate"] for t in finished].count(wanted) == 1
    assert [t.values for t in before[:-1]] == [t.values for t in after[: len(before) - 1]]


def test_a_finished_search_resumed_trains_nothing(tmp_path):
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    before = trials(tmp_path / "run")
    run(study(), out=tmp_path / "run", resume=True, evaluator=FakeEvaluator(folder=tmp_path))
    assert not list(tmp_path.glob("*.json"))
    assert trials(tmp_path / "run") == before


def test_a_larger_budget_goes_on(tmp_path):
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    larger = study(budget={"trials": 13})
    run(larger, out=tmp_path / "run", resume=True, evaluator=FakeEvaluator(folder=tmp_path))
    assert len(list(tmp_path.glob("*.json"))) == 3


@pytest.mark.slow
def test_an_exhausted_space_ends_the_search(tmp_path):
    space = {"plan": [{"layers": "1..4"}], "recipe": {"steps": 1}}
    run(study(space=space), out=tmp_path / "run", evaluator=FakeEvaluator(folder=tmp_path))
    assert len(list(tmp_path.glob("*.json"))) == 5


def test_plans_of_the_user_run_after_the_anchors(tmp_path):
    plan = {"groups": [{"layers": "2..3"}]}
    run(study(plans=[plan]), out=tmp_path / "run", evaluator=FakeEvaluator())
    assert trials(tmp_path / "run")[4].user_attrs["anchor"] == "plan-0"


def test_weights_are_kept_for_the_front_and_the_anchors(tmp_path):
    out = tmp_path / "run"
    run(study(), out=out, evaluator=FakeEvaluator())
    kept = {int(path.name) for path in (out / "trials").iterdir()}
    frame = results.load(out)
    objectives = [OBJECTIVES[name] for name in ("accuracy", "parameters", "flops")]
    front = set(results.pareto_front(frame, objectives)["number"])
    assert kept == front | {0, 1, 2, 3}


def test_an_existing_run_folder_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="exists already") as caught:
        run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    assert "--resume" in caught.value.hint
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


def test_resuming_nothing_is_a_mistake(tmp_path):
    with pytest.raises(RunError, match="no study in"):
        run(study(), out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())


def test_resuming_another_study_is_a_mistake(tmp_path):
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    with pytest.raises(RunError, match=r"started with: objectives was \[.*; seed was 0 and is 5"):
        run(
            study(seed=5, objectives=["accuracy"]),
            out=tmp_path / "run",
            resume=True,
            evaluator=FakeEvaluator(),
        )


def test_a_second_driver_is_refused(tmp_path):
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    store = StudyWriter.open(tmp_path / "run")
    with pytest.raises(RunError, match="another search is running"):
        run(study(), out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
    store.close()


def test_the_storage_is_an_ordinary_optuna_study(tmp_path):
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    storage = f"sqlite:///{tmp_path / 'run' / record.STORAGE}"
    found = optuna.load_study(study_name="fake", storage=storage)
    assert [d.name for d in found.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert all(not math.isnan(v) for t in found.best_trials for v in t.values)
    assert found.user_attrs["reference"] == {
        "accuracy": 0.0,
        "parameters": pytest.approx(24_200_000),
        "flops": pytest.approx(1.1e9),
    }


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_a_wrong_address_is_noticed_before_a_run_folder_is_made(tmp_path, address):
    with pytest.raises(RunError, match=f"no Ray cluster at {address}: ") as caught:
        run(study(executor="ray"), out=tmp_path / "run", address=address, evaluator=FakeEvaluator())
    assert "\n" not in caught.value.message
    assert not (tmp_path / "run").exists()


def test_a_machine_too_busy_to_start_ray_is_one_error(monkeypatch):
    """As it was met at a load of 70 on two cores: Ray gives up with a bare exception."""

    def give_up(**options):
        raise Exception("The current node timed out during startup. This could happen because")

    from sharetune.search.workers import ray_cluster

    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster.ray, "init", give_up)
    with pytest.raises(RunError, match="Ray did not start on this machine: The current") as caught:
        ray_cluster.connect(None, study(executor="ray"))
    assert "--set executor=local" in caught.value.hint
