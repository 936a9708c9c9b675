"""Spaces: what can be drawn, and that nothing drawn overlaps."""

import optuna
import pytest
import yaml

from sharetune.spaces.errors import ConfigError, SharetuneError
from sharetune.spaces.leaves import Corner
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.space import Space
from sharetune.spaces.stack_shape import StackShape

STACKS = {"layers": StackShape(depth=12, heads=12, neurons=3072)}
SPACE = Space.model_validate(
    yaml.safe_load(
        """
plan:
  - layers: {within: 1..-2, min: 2, max: 5}
    count: {low: 0, high: 3}
    parts: {choices: [[attention, ffn], [attention], [ffn]]}
    form: {choices: [tie, {bank: {ratio: {low: 0.3, high: 0.9, step: 0.1}}}]}
    init: {choices: [first, middle, last, mean]}
recipe:
  learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
  bank_l2: {choices: [0.0, 1.0e-5]}
  batch_size: {low: 8, high: 32, step: 8}
  steps: 10
"""
    )
)


def draws(count, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(count):
        trial = study.ask()
        yield SPACE.suggest(trial, STACKS), trial
        study.tell(trial, 0.0)


def test_groups_never_overlap_and_stay_in_their_region():
    counts = set()
    for candidate, _ in draws(300):
        layers = [layer for group in candidate.plan.groups for layer in group.layers]
        assert len(layers) == len(set(layers))
        assert all(1 <= layer <= 10 for layer in layers)
        assert all(2 <= len(group.layers) <= 5 for group in candidate.plan.groups)
        counts.add(len(candidate.plan.groups))
    assert counts == {0, 1, 2, 3}


@pytest.mark.slow
def test_every_start_and_length_is_reachable():
    places = {group.layers for c, _ in draws(600) for group in c.plan.groups[:1]}
    assert (1, 2) in places
    assert (9, 10) in places
    assert (3, 4, 5, 6, 7) in places


def test_drawn_values_keep_to_their_ranges():
    for candidate, _ in draws(50):
        recipe = candidate.recipe
        assert 1e-5 <= recipe.learning_rate <= 1e-3
        assert recipe.bank_l2 in (0.0, 1e-5)
        assert recipe.batch_size in (8, 16, 24, 32)
        assert recipe.steps == 10


def test_parameters_are_named_by_their_place():
    names = set().union(*(trial.params for _, trial in draws(50)))
    assert {"plan.0.count", "plan.0.0.start", "plan.0.2.length", "plan.0.0.form"} <= names
    assert {"plan.0.0.form.bank.ratio", "recipe.learning_rate", "recipe.batch_size"} <= names
    assert not any("/" in name for name in names)


def test_a_value_for_each_layer_is_drawn_layer_by_layer():
    ratio = {"each": {"low": 0.2, "high": 0.8, "step": 0.2}}
    rule = {"layers": {"within": "all", "min": 3}, "form": {"bank": {"ratio": ratio}}}
    space = Space.model_validate({"plan": [rule]})
    study, found = optuna.create_study(), []
    for _ in range(20):
        trial = study.ask()
        found += [g.form.ratio for g in space.suggest(trial, STACKS).plan.groups]
        drawn = [name for name in trial.params if name.startswith("plan.0.0.form.bank.ratio.")]
        assert len(drawn) >= 3
    assert any(isinstance(ratio, tuple) for ratio in found)
    fixed = {"layers": "0..2", "form": {"bank": {"ratio": [0.5, ratio["each"], 0.5]}}}
    groups = Space.model_validate({"plan": [fixed]}).suggest(study.ask(), STACKS).plan.groups
    assert groups[0].form.share(0) == 0.5


def test_candidates_round_trip():
    for candidate, _ in draws(20):
        again = Candidate.model_validate(candidate.written())
        assert again == candidate
        assert again.key() == candidate.key()


def test_the_same_parameters_give_the_same_candidate():
    for candidate, trial in draws(20):
        fixed = optuna.trial.FixedTrial(trial.params)
        assert SPACE.suggest(fixed, STACKS) == candidate


def test_the_reference_recipe_takes_defaults_where_they_are_allowed():
    recipe = SPACE.reference_recipe()
    assert recipe.learning_rate == 5e-5
    assert recipe.bank_l2 == 0.0
    assert recipe.batch_size == 16
    assert recipe.steps == 10


def test_a_space_round_trips():
    assert Space.model_validate(SPACE.model_dump(mode="json")) == SPACE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: {learning_rat: 1}", "unknown key in recipe: 'learning_rat'"),
        ("recipe: {learning_rate: {low: 2, high: 1}}", "`low <= high` must hold"),
        ("recipe: {learning_rate: {low: 0, high: 1, log: true}}", "log needs `0 < low`"),
        ("recipe: {learning_rate: {low: a, high: 1}}", "low and high must be numbers"),
        ("recipe: {learning_rate: {low: 1}}", "low and high must be numbers"),
        ("recipe: {learning_rate: {low: nan, high: 1}}", "low and high must be numbers"),
        ("recipe: {learning_rate: {low: 3e-4, high: 1e-5}}", "`low <= high` must hold"),
        ("recipe: {learning_rate: {low: 1, hihg: 2}}", "unknown key in a range: 'hihg'"),
        ("recipe: {learning_rate: {choices: []}}", "choices must be a non-empty list"),
        ("recipe: {learning_rate: -1}", "greater than 0"),
        ("recipe: {steps: 5, epochs: 2}", "a recipe has one of steps, epochs and tokens"),
        ("plan: [{layers: 1..4, count: 2}]", "several groups need room"),
        ("plan: [{layer: 1..4}]", "layer"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(SharetuneError) as caught:
        Space.model_validate(yaml.safe_load(text))
    assert message in str(caught.value)


def test_too_many_groups_for_the_model():
    space = Space.model_validate({"plan": [{"layers": {"within": "0..-1", "min": 5}, "count": 3}]})
    with pytest.raises(ConfigError, match="3 groups of at least 5 layers do not fit into 12"):
        space.suggest(Corner(high=True), STACKS)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["form", "assign", "init", "units"])
def test_numbers_that_are_none_are_refused_wherever_they_are(key, number):
    for leaf in (number, {"choices": ["one", number]}, {"bank": {"ratio": number}}):
        with pytest.raises(ConfigError, match="numbers must be finite"):
            Space.model_validate({"plan": [{"layers": "0..1", key: leaf}]})
