"""How long a study takes, and what it needs, before any of its trials has ended."""

from dataclasses import dataclass, replace

import pytest

from sharetune.search.estimate import expectation, has_long_to_go
from sharetune.search.run import run
from sharetune.spaces.pace import Pace
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study

PACE = Pace(load_s=1.0, step_s=0.5, judge_s=0.01, memory=2_300_000_000, judged=200)


@dataclass(frozen=True)
class Timed(FakeEvaluator):
    """A model that was rehearsed, with data."""

    def rehearse(self, candidate, resources):
        return PACE


def test_a_trial_by_a_rehearsal():
    assert PACE.trial_s(steps=40) == 24.0  # loaded and saved, 40 steps, 200 judged
    assert replace(PACE, judged=100).trial_s(steps=13) == 9.5


def test_what_a_study_takes(tmp_path):
    config = study(keep="all", space={"recipe": {"steps": 40}})
    told = expectation(config, Timed(), PACE, tmp_path).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert told.startswith(
        "a trial takes about 24 s (40 steps of 0.5 s), 10 trials on 1 worker about 4 min 0 s; a "
        "worker needs 2.3 GB of memory, kept models at most 0.9 GB of disk, where "
    )


def test_it_is_told_before_the_first_trial(tmp_path, capsys):
    run(study(budget={"trials": 4}), out=tmp_path / "run", evaluator=Timed())
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("a trial takes about ")
    assert "4 trials to come, in about " in told[1]


def test_the_slowest_of_trainings_at_once():
    other = Pace(load_s=2.0, step_s=0.4, judge_s=0.01, memory=2_100_000_000, held=7)
    assert Pace.slowest([PACE, other]) == Pace(2.0, 0.5, 0.01, 2_300_000_000, 7, judged=200)


@pytest.mark.parametrize(
    ("changes", "gpus", "long"),
    [
        ({"executor": "ray", "resources": {"workers": 2}}, 0, True),  # 10 trials of 204 s: 1,020 s
        ({"executor": "ray", "resources": {"workers": 10}}, 0, False),  # 204 s
        ({"executor": "ray", "resources": {"workers": 1}}, 0, False),
        ({"executor": "local"}, 0, False),
        ({"executor": "ray", "resources": {"workers": 2}}, 2, False),
    ],
)
def test_long_studies_of_several_workers_are_timed_at_once(changes, gpus, long):
    config = study(space={"recipe": {"steps": 400}}, **changes)
    assert has_long_to_go(config, Timed(), replace(PACE, gpus=gpus)) is long
