"""A search without a completed trial says why."""

import pytest
from optuna.trial import TrialState

from sharetune.results.judging.unfinished import nothing_completed
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import read_study
from sharetune.spaces import SharingPlan
from tests.results.conftest import candidate, complete, ended

BROKEN = {"kind": "RuntimeError", "message": "no such operator\nin line 3", "traceback": "..."}


def over(parameters, latency=None, plan=None):
    """A trial that a limit kept from being trained."""
    sizes = {"parameters": parameters} | ({"latency_ms": latency} if latency else {})
    reason = f"over budget: {parameters:,.0f} parameters, at most 100 allowed"
    facts = {record.FACTS: sizes, record.REASON: reason}
    return ended(TrialState.PRUNED, **facts) | {record.CANDIDATE: candidate(plan)}


@pytest.mark.parametrize("budget", [{"max_parameters": 100}, {"max_parameters": 100.0}])
def test_the_smallest_of_those_over_the_budget_is_named(make_run, budget):
    half = SharingPlan.range(1, 4, 0.5)
    run = make_run(over(2500.0), over(1200.0, plan=half), config={"budget": budget})
    error = nothing_completed(read_study(run))
    assert error.message == (
        "no trial was completed: all 2 candidates are over the budget; the smallest, trial 1 "
        "(1..4 bank 0.5 attention+ffn from mean), has 1,200 parameters, at most 100 allowed"
    )
    assert error.hint == "raise budget.max_parameters, or let the space share more"


def test_the_limit_that_most_are_over_is_named(make_run):
    budget = {"max_parameters": 2000, "max_latency_ms": 1.5}
    run = make_run(over(2500.0, 3.0), over(1200.0, 2.25), config={"budget": budget})
    message = nothing_completed(read_study(run)).message
    assert message.endswith("has 2.25 ms of latency, at most 1.5 allowed")


def test_the_most_frequent_cause_is_named(make_run):
    failed = ended(TrialState.FAIL, **{record.ERROR: BROKEN})
    stopped = ended(TrialState.PRUNED, **{record.REASON: "accuracy is nan"})
    error = nothing_completed(read_study(make_run(stopped, failed, failed)))
    assert error.message == (
        "no trial was completed: 2 of 3 trials ended with RuntimeError: no such operator "
        "(trial 1 was the first)"
    )


def test_a_search_with_a_completed_trial_or_none_at_all_has_nothing_to_explain(make_run):
    failed = ended(TrialState.FAIL, **{record.ERROR: BROKEN})
    assert nothing_completed(read_study(make_run(failed, complete(0.9, 10.0)))) is None
    assert nothing_completed(read_study(make_run(folder="none"))) is None
