"""The sampler that goes by exact sizes, and what all samplers see of a study."""

import random
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from sharetune.search.run import run
from sharetune.search.samplers.base import SAMPLERS, Ask, Past, Setting
from sharetune.search.samplers.base import make_sampler as make
from sharetune.search.samplers.features import Drawer
from sharetune.search.samplers.in_memory import LATEST, MOST_OF_FRONT, REBUILT_AFTER, SAMPLED
from sharetune.search.study.writer import Draw
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.stack_shape import StackShape
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials

SHAPES = {"layers": StackShape(depth=6, heads=12, neurons=1536)}
SETTING = Setting(
    (OBJECTIVES["accuracy"], OBJECTIVES["parameters"]), 0, 40, {"accuracy": 0.0, "parameters": 25e6}
)


def test_a_drawer_keeps_to_its_ranges_and_mostly_to_its_parent():
    space = study().space
    first = Drawer(random.Random(0))
    space.suggest(first, SHAPES)
    kept = 0
    for seed in range(50):
        drawer = Drawer(random.Random(seed), first.draw)
        space.suggest(drawer, SHAPES)
        for name, value in drawer.draw.params.items():
            assert drawer.draw.distributions[name]._contains(
                drawer.draw.distributions[name].to_internal_repr(value)
            )
        kept += (
            drawer.draw.params["recipe.learning_rate"]
            == (first.draw.params["recipe.learning_rate"])
        )
    assert 25 <= kept <= 47  # three in four of fifty are 37.5


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_searches_and_repeats_itself(tmp_path, name):
    config = study(sampler=name, budget={"trials": 16})
    for out in ("a", "b"):
        run(config, out=tmp_path / out, evaluator=FakeEvaluator())
    found = [[t.user_attrs["candidate"] for t in trials(tmp_path / out)] for out in "ab"]
    assert found[0] == found[1]
    assert len([t for t in trials(tmp_path / "a") if t.state is TrialState.COMPLETE]) >= 16


@pytest.mark.slow
def test_the_guided_search_avoids_what_fails(tmp_path):
    fake = FakeEvaluator(faults=(("tie", "fault"),))
    config = study(sampler="guided", anchors=[], budget={"trials": 40})
    run(config, out=tmp_path / "run", evaluator=fake)
    ends = [t.state for t in trials(tmp_path / "run") if "started" in t.user_attrs]
    # ties are half of what a uniform draw gives; ENGINE: TPE told FAIL proposes them in 95 %
    assert ends[20:].count(TrialState.PRUNED) <= 5


def asking(measure, drawn=0):
    def weigh(candidate):
        return {"parameters": FakeEvaluator().sizes(candidate)["parameters"]}

    return Ask(study().space, SHAPES, drawn, lambda _: False, weigh, measure)


def shared_layers(candidate):
    return float(sum(len(group.layers) for group in candidate.plan.groups))


def test_the_nearest_plans_come_first_with_the_middle_recipe():
    asked = []

    def measure(candidate):
        asked.append(candidate)
        return shared_layers(candidate)

    sampler = make("guided", SETTING)
    candidate, _ = sampler.draw(asking(measure))
    assert 1 <= len(asked) <= 32 and candidate in asked
    assert candidate.recipe.learning_rate == pytest.approx(1e-4)
    again, _ = make("guided", SETTING).draw(asking(measure))
    assert again == candidate


def test_plans_whose_sizes_are_worth_most_are_measured_first():
    weighed, asked = [], []

    def weigh(candidate):
        weighed.append(FakeEvaluator().sizes(candidate)["parameters"])
        return {"parameters": weighed[-1]}

    def measure(candidate):
        asked.append(FakeEvaluator().sizes(candidate)["parameters"])
        return shared_layers(candidate)

    make("guided", SETTING).draw(replace(asking(measure), weigh=weigh))
    assert len(weighed) > 32 == len(asked)
    assert asked[0] == min(weighed)
    assert {*sorted({*weighed})[:3]} <= {*asked[:10]}  # by turns with any others


def test_the_best_candidate_is_measured_before_it_is_proposed():
    sampler, asked = make("guided", SETTING), []

    def measure(candidate):
        asked.append(candidate)
        return shared_layers(candidate)

    for number in range(6):
        candidate, draw = sampler.draw(asking(measure, number))
        exact = FakeEvaluator().sizes(candidate) | {"distance": shared_layers(candidate)}
        values = (0.9 - 0.05 * exact["distance"], exact["parameters"])
        sampler.note(Past(number, candidate, draw, TrialState.COMPLETE, exact, values))
    asked.clear()
    candidate, _ = sampler.draw(asking(measure, 6))
    assert len(asked) <= 8 and (candidate in asked or len(asked) < 8)


@pytest.mark.slow
def test_optunas_samplers_see_a_bounded_part_of_a_large_study():
    sampler = make("random", SETTING)
    for number in range(1000):
        drawer = Drawer(random.Random(number))
        candidate = study().space.suggest(drawer, SHAPES)
        past = Past(number, candidate, drawer.draw, TrialState.COMPLETE, {}, (0.5, float(number)))
        sampler.note(past)
    sampler._rebuild()
    seen = sampler._study.get_trials()
    assert len(seen) <= LATEST + SAMPLED + MOST_OF_FRONT + REBUILT_AFTER
    assert min(trial.values[1] for trial in seen) == 0.0  # the front is in it


def test_candidates_without_a_draw_are_no_business_of_optunas():
    sampler = make("tpe", SETTING)
    sampler.note(Past(0, Candidate(), Draw(), TrialState.COMPLETE, {}, (0.5, 1.0)))
    assert sampler._study.get_trials() == []


@pytest.mark.parametrize(
    ("budget", "weighs_fast", "name"),
    [(11, True, "random"), (12, True, "guided"), (12, False, "tpe")],
)
def test_auto_chooses_by_the_budget_and_by_what_sizes_cost(budget, weighs_fast, name):
    setting = replace(SETTING, budget=budget, weighs_fast=weighs_fast)
    chosen, named = make("auto", setting), make(name, setting)
    assert type(chosen) is type(named)
    if name != "guided":
        assert type(chosen.sampler(0)) is type(named.sampler(0))


@pytest.mark.parametrize(
    ("compression", "slow"),
    [
        ({}, False),
        ({"quantize": {"choices": [None, "int8"]}}, False),
        ({"quantize": {"choices": [None, "dynamic-int8"]}}, True),
        ({"heads": {"choices": [0, 0.5]}}, True),
    ],
)
def test_which_sizes_take_long_to_know(compression, slow):
    assert study(space={"compression": compression}).space.sized_by_building is slow
