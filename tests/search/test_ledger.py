"""A ledger read from the storage equals the one kept while the search ran."""

import pytest
from optuna.trial import TrialState

from sharetune.search.search import Search
from sharetune.search.study.writer import StudyWriter
from sharetune.search.workers import in_process
from sharetune.search.workers.attempt import attempt
from sharetune.spaces.evaluator import JobResources, Unheard
from sharetune.spaces.run_folder import RunFolder
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study

ATTRIBUTES = {
    "objectives": ["accuracy", "parameters", "flops"],
    "reference": {"accuracy": 0.0, "parameters": 2.4e7, "flops": 1.1e9},
}
CONFIG = study(
    budget={"trials": 16, "max_parameters": 2.15e7},
    early_stopping={"rungs": [0.25, 0.5]},
    finalists={"seeds": 2},
    seed=3,
)


def searched(folder, evaluator):
    """A search that came to its end, and its writer."""
    writer = StudyWriter.create(folder, "ledger", ATTRIBUTES)
    search = Search(CONFIG, writer, evaluator, RunFolder(folder))
    in_process.execute(search)
    return search, writer


def known_of(search):
    ledger = search.ledger
    return {
        "known": ledger.known,
        "drawn": ledger.drawn,
        "started": ledger.started,
        "complete": sorted((t.number, t.values, t.written["plan"] != {}) for t in ledger.complete),
        "front": sorted(trial.number for trial in ledger.front),
        "paid for": ledger.spending.count,
        "retrainings": sorted(ledger.finals._done),
    }


@pytest.mark.slow
def test_a_study_that_is_read_again_has_shown_what_it_had_shown(tmp_path):
    evaluator = FakeEvaluator(faults=(("0..1 tie", "fault"), ("1..2 tie", "raise")), harm=0.3)
    lived, writer = searched(tmp_path, evaluator)
    states = {trial.state for trial in writer.trials()}
    assert {TrialState.COMPLETE, TrialState.PRUNED} <= states
    assert lived.ledger.started == 16 and lived.ledger.drawn > 16
    read = Search(CONFIG, writer, evaluator, RunFolder(tmp_path))
    assert known_of(read) == known_of(lived)
    assert read.done
    writer.close()


def test_the_next_draws_are_the_same_after_a_study_was_read_again(tmp_path):
    evaluator = FakeEvaluator()
    writer = StudyWriter.create(tmp_path, "ledger", ATTRIBUTES)
    lived = Search(CONFIG, writer, evaluator, RunFolder(tmp_path))
    for _ in range(8):
        job = lived.next()
        lived.finish(job, attempt(evaluator.evaluate, job, JobResources(), Unheard()))
    read = Search(CONFIG, writer, evaluator, RunFolder(tmp_path))
    assert known_of(read) == known_of(lived)
    assert read._draw().candidate == lived._draw().candidate
    writer.close()
