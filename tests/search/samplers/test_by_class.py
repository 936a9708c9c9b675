"""Samplers of others: Optuna's classes by name, one's own by path, OptunaHub's."""

import importlib.util
import math

import pytest
from optuna.samplers import CmaEsSampler, NSGAIIISampler, RandomSampler
from optuna.trial import TrialState

from sharetune.search.run import run
from sharetune.search.samplers.base import make_sampler, maker_of
from sharetune.search.samplers.by_class import optunas_classes
from sharetune.spaces.errors import ConfigError
from tests.search.fakes import FakeEvaluator
from tests.search.samplers.test_guided import SETTING
from tests.search.studies import study
from tests.search.test_run import trials


def test_the_classes_of_optuna_are_known_by_name():
    classes = optunas_classes()
    assert classes["CmaEsSampler"] is CmaEsSampler
    assert "BaseSampler" not in classes


def test_a_class_gets_its_arguments_and_the_draws_seed():
    sampler = make_sampler({"NSGAIIISampler": {"population_size": 7}}, SETTING).sampler
    assert isinstance(sampler(5), NSGAIIISampler)
    assert sampler(5).population_size == 7
    drawn = [sampler(seed)._rng.rng.random() for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_class_by_its_path():
    sampler = make_sampler("optuna.samplers.RandomSampler", SETTING).sampler(0)
    assert isinstance(sampler, RandomSampler)


class Own:
    """A sampler that is no class of Optuna's."""

    def __init__(self, setting, *, step=1):
        self.setting, self.step = setting, step


def test_a_sampler_of_ones_own_gets_the_setting():
    own = make_sampler({f"{__name__}.Own": {"step": 3}}, SETTING)
    assert (own.setting, own.step) == (SETTING, 3)


@pytest.mark.parametrize(
    ("choice", "message", "hint"),
    [
        ("GPSamplr", "unknown sampler: 'GPSamplr'", "did you mean 'GPSampler'?"),
        (
            {"TPESampler": {"n_startup": 3}},
            "unknown argument of TPESampler: 'n_startup'",
            "did you mean 'n_startup_trials'?",
        ),
        ({"TPESampler": {"seed": 3}}, "unknown argument of TPESampler: 'seed'", "available: "),
        ({"guided": {"trees": 3}}, "unknown argument of guided: 'trees'", "it takes none"),
        ({"auto": {"trees": 3}}, "unknown argument of auto: 'trees'", "it takes none"),
        ({"tpe": {}, "nsga2": {}}, "a sampler is a name or one `name: arguments`", "for example"),
        ("nowhere.Sampler", "the sampler nowhere.Sampler cannot be imported", "in plugins"),
        ("math.pi", f"the sampler math.pi is no class, but {math.pi}", "BaseSampler"),
        ({f"{__name__}.Own": {"stop": 1}}, "unknown argument", "did you mean 'step'?"),
        ("hub", "a sampler of OptunaHub needs its package", "{hub: {package: "),
    ],
)
def test_mistakes(choice, message, hint):
    with pytest.raises(ConfigError) as caught:
        maker_of(choice)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.skipif(importlib.util.find_spec("optunahub") is not None, reason="optunahub is there")
def test_optunahub_is_an_extra():
    with pytest.raises(ConfigError, match="needs optunahub") as caught:
        maker_of({"hub": {"package": "samplers/auto_sampler"}})
    assert caught.value.hint == "pip install 'sharetune[hub]'"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("BruteForceSampler", "step must be given"),
        ("GridSampler", "missing 1 required positional argument: 'search_space'"),
    ],
)
def test_what_cannot_draw_here_is_found_out_before_the_search(choice, message):
    with pytest.raises(ConfigError, match=f"the sampler {choice} cannot be used here") as caught:
        study(sampler=choice)
    assert message in caught.value.message


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice", [{"GPSampler": {"n_startup_trials": 4}}, "NSGAIIISampler", "QMCSampler"]
)
def test_a_class_of_optunas_searches_and_repeats_itself(tmp_path, choice):
    config = study(sampler=choice, budget={"trials": 9})
    for out in ("a", "b"):
        run(config, out=tmp_path / out, evaluator=FakeEvaluator())
    found = [[t.user_attrs["candidate"] for t in trials(tmp_path / out)] for out in "ab"]
    assert found[0] == found[1]
    ended = [t for t in trials(tmp_path / "a") if t.state is TrialState.COMPLETE]
    assert len(ended) == 9
