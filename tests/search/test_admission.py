"""Candidates are trained, answered or put off before any worker sees them."""

import pytest

from sharetune.search.admission import Answer, Train, Wait
from sharetune.search.search import Search
from sharetune.search.study.writer import StudyWriter
from sharetune.search.workers.attempt import attempt
from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.evaluator import JobResources, Unheard
from sharetune.spaces.run_folder import RunFolder
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_ledger import ATTRIBUTES


@pytest.fixture
def make(tmp_path):
    """A search over an empty study, of the budget given; closed afterwards."""
    made = []

    def search(**budget):
        config = study(budget={"trials": 8} | budget, anchors=["unshared"])
        made.append(StudyWriter.create(tmp_path, "admission", ATTRIBUTES))
        return Search(config, made[0], FakeEvaluator(), RunFolder(tmp_path))

    yield search
    made[0].close()


def tied(search):
    recipe = Recipe(steps=1)
    return Candidate(plan=SharingPlan.range(0, 5, 1.0), recipe=recipe).bound(
        search.evaluator.stacks
    )


def judged(search, candidate, *, busy=False):
    return search.admission.judge(candidate, search.running, busy=busy)


def test_a_new_candidate_is_trained_and_its_sizes_are_known(make):
    search = make()
    assert judged(search, tied(search)) == Train(
        {
            "parameters": 13_500_000.0,
            "stack_parameters": 1_500_000.0,
            "bytes": 54_000_000.0,
            "flops": 1e9,
            "effective_ratio": 1.0,
        }
    )


def test_one_over_a_limit_is_answered_with_the_reason(make):
    search = make(max_parameters=13e6)
    verdict = judged(search, tied(search))
    assert isinstance(verdict, Answer) and verdict.values is None
    assert verdict.attributes["reason"] == (
        "over budget: 13,500,000 parameters, at most 13,000,000 allowed"
    )
    assert search.admission.weigh(tied(search)) is None


def test_an_equal_candidate_waits_for_the_one_in_training_and_is_then_answered(make):
    search = make()
    job = search.next()
    assert judged(search, job.candidate) == Wait(twin=0)
    search.finish(job, attempt(FakeEvaluator().evaluate, job, JobResources(), Unheard()))
    verdict = judged(search, job.candidate)
    assert isinstance(verdict, Answer)
    assert verdict.attributes["same_as"] == 0
    assert verdict.values == pytest.approx((0.95, 22e6, 1e9), rel=0.2)


def test_latency_is_measured_only_while_no_worker_is_busy(make):
    search = make(max_latency_ms=100.0)
    assert judged(search, tied(search), busy=True) == Wait()
    assert isinstance(judged(search, tied(search)), Train)
    assert isinstance(judged(search, tied(search), busy=True), Train)  # known by now
