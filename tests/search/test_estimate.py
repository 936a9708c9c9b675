"""How long a study takes, and what it needs, before any of its trials has ended."""

from dataclasses import dataclass, replace

from sharetune.search.estimate import expectation
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
