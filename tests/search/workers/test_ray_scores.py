"""Scoring on Ray workers, for real."""

import os
from pathlib import Path

import pytest

from sharetune.search.scoring import score_study
from sharetune.search.workers import ray_cluster
from sharetune.spaces.errors import RunError
from sharetune.spaces.evaluator import PlanScore
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]

SPACE = {"plan": [{"layers": "0..-1", "form": {"choices": ["drop", "tie"]}}]}
RAY = study(space=SPACE, executor="ray", resources={"workers": 2})


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray_cluster.MOST_PRELOADED = 0  # the fake evaluator needs no torch
    ray_cluster.connect(None, RAY)
    yield
    ray_cluster.disconnect()


@pytest.fixture(autouse=True)
def keep_cluster(monkeypatch):
    """The scoring's own disconnecting would end the session's cluster."""
    monkeypatch.setattr(ray_cluster, "disconnect", lambda: None)


class Pid(FakeEvaluator):
    """Gives the process as the loss, and dies at words of the plan while `folder` has no mark."""

    def score(self, candidate, resources):
        found = super().score(candidate, resources)
        words = dict(self.faults).get(str(candidate.plan))
        if words == "kill" or (words == "kill once" and not (Path(self.folder) / "mark").exists()):
            (Path(self.folder) / "mark").touch()
            os._exit(1)
        return PlanScore(found.distance, float(os.getpid()))


def costs(found):
    return {key: one.cost for key, one in found.scored.items()}


def test_workers_score_what_this_process_would(tmp_path):
    alone = score_study(study(space=SPACE), out=tmp_path / "alone", evaluator=FakeEvaluator())
    found = score_study(RAY, out=tmp_path / "run", evaluator=Pid(folder=tmp_path, seconds=0.05))
    assert costs(found) == costs(alone)
    assert len(found.scored) == 26
    assert len(set(found.losses.values())) == 2
    assert os.getpid() not in found.losses.values()


def test_a_short_scoring_is_not_worth_the_start_of_workers(tmp_path):
    brief = RAY.model_copy(update={"scoring": study(scoring={"seconds": 20}).scoring})
    found = score_study(brief, out=tmp_path / "run", evaluator=Pid(folder=tmp_path))
    assert set(found.losses.values()) == {os.getpid()}
    assert len(found.scored) == 26


def test_the_plan_of_a_worker_that_died_is_given_to_another(tmp_path):
    fake = Pid(folder=tmp_path, faults=(("layers 2 drop", "kill once"),))
    assert len(score_study(RAY, out=tmp_path / "run", evaluator=fake).scored) == 26


def test_workers_that_die_again_and_again_end_the_scoring(tmp_path):
    fake = Pid(folder=tmp_path, faults=(("layers 4 drop", "kill"),))
    with pytest.raises(RunError, match="3 workers died .* the last one at layers 4"):
        score_study(RAY, out=tmp_path / "run", evaluator=fake)
    again = score_study(RAY, out=tmp_path / "run", evaluator=FakeEvaluator())
    assert len(again.scored) == 26
