"""A hard limit on latency: measured before a training, once an architecture, on a quiet machine."""

import pytest
from optuna.trial import TrialState

from sharetune import results
from sharetune.results.reading import attributes as record
from sharetune.search.run import run
from sharetune.search.search import Search
from sharetune.search.study.writer import StudyWriter
from sharetune.search.study_file import validate
from sharetune.search.workers.attempt import attempt
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.evaluator import JobResources, Unheard
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials

DROPS = {
    "plan": [{"layers": {"within": "0..-1", "min": 1}, "form": {"choices": ["tie", "drop"]}}],
    "recipe": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "steps": 1},
}


def limited(**changes):
    """The fake takes 10 ms, less as layers are dropped."""
    budget = {"trials": 6, "max_latency_ms": 9.0} | changes.pop("budget", {})
    return study(space=DROPS, sampler="random", budget=budget, **changes)


def test_what_is_too_slow_is_refused_untrained_and_each_architecture_measured_once(tmp_path):
    run(limited(), out=tmp_path / "run", evaluator=FakeEvaluator(folder=tmp_path))
    found = trials(tmp_path / "run")
    assert found[0].user_attrs[record.ANCHOR] == "unshared"
    assert (found[0].state, found[0].user_attrs["reason"]) == (
        TrialState.PRUNED,
        "over budget: 10 ms of latency, at most 9 allowed",
    )
    trained = [t for t in found if record.STARTED in t.user_attrs]
    assert len(trained) == 6
    for one in trained:
        plan = Candidate.model_validate(one.user_attrs["candidate"]).plan
        assert any(group.form.removes_layers for group in plan.groups), plan
    plans = {str(t.user_attrs["candidate"]["plan"]) for t in found}
    timed = len(list(tmp_path.glob("*.timed")))
    assert timed == len(plans) < len(found)
    frame = results.load(tmp_path / "run").set_index("number")
    assert (frame["latency_ms"][[t.number for t in trained]] < 9).all()
    assert frame["latency_ms"][0] == 10.0
    more = limited(budget={"trials": 7})
    run(more, out=tmp_path / "run", resume=True, evaluator=FakeEvaluator(folder=tmp_path))
    plans = {str(t.user_attrs["candidate"]["plan"]) for t in trials(tmp_path / "run")}
    assert len(list(tmp_path.glob("*.timed"))) == len(plans)


def test_nothing_is_measured_before_a_training_without_a_limit(tmp_path):
    run(
        study(latency={"rounds": 0}), out=tmp_path / "run", evaluator=FakeEvaluator(folder=tmp_path)
    )
    assert not list(tmp_path.glob("*.timed"))


def test_it_is_measured_while_no_worker_is_busy_for_one_job_each(tmp_path):
    class Quiet(FakeEvaluator):
        """Notes how many jobs are with workers whenever it measures."""

        def latency(self, model, request):
            busy.append(len(handed))
            return super().latency(model, request)

    busy: list[int] = []
    handed: list = []
    config = limited(budget={"trials": 8})
    attributes = {
        record.OBJECTIVES: ["accuracy", "parameters", "flops"],
        record.REFERENCE: {"accuracy": 0.0, "parameters": 3e7, "flops": 2e9},
    }
    store = StudyWriter.create(tmp_path / "run", "fake", attributes)
    search = Search(config, store, Quiet(), RunFolder(tmp_path / "run"))
    search.workers = 3
    most = 0
    while not search.done:
        while len(handed) < 3 and (job := search.next()) is not None:
            handed.append(job)
        most = max(most, len(handed))
        first = handed.pop(0)
        search.finish(first, attempt(search.evaluator.evaluate, first, JobResources(), Unheard()))
    assert set(busy) == {0}
    assert most == 3  # all workers are given something after one pause
    assert len([t for t in store.trials() if t.started]) == 8
    assert len(store.trials()) == search.ledger.drawn
    store.close()


def test_a_limit_needs_the_protocol():
    with pytest.raises(ConfigError) as caught:
        validate(limited().model_dump(mode="json") | {"latency": {"rounds": 0}}, "study.yaml")
    assert caught.value.message == (
        "study.yaml: budget.max_latency_ms needs latency to be measured, but latency.rounds is 0"
    )
