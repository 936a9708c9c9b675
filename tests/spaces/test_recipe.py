"""Recipes and candidates."""

import pytest

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.digest import digest
from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.stack_shape import StackShape

STACKS = {"layers": StackShape(depth=6, heads=12, neurons=1536)}


def test_three_epochs_unless_told_otherwise():
    assert Recipe().epochs == 3.0
    assert Recipe(steps=5).epochs is None


def test_steps_and_epochs_together_are_a_mistake():
    with pytest.raises(SharetuneError, match="steps=5 and epochs=2"):
        Recipe(steps=5, epochs=2)


def test_settings_without_effect_do_not_make_a_candidate_different():
    plain = Candidate().bound(STACKS)
    assert (
        Candidate(recipe=Recipe(bank_l2=0.1, kept_top_lr_scale=0.5, bank_lr_rule="sqrt")).bound(
            STACKS
        )
        == plain
    )


def test_kept_layers_leave_the_plan():
    recipe = Recipe(kept_top=2)
    shared = Candidate(plan=SharingPlan.range(0, 5, 1.0), recipe=recipe).bound(STACKS)
    smaller = Candidate(plan=SharingPlan.range(0, 3, 1.0), recipe=recipe).bound(STACKS)
    assert shared == smaller
    assert shared.key() == smaller.key()


def test_one_of_steps_epochs_and_tokens():
    assert Recipe(tokens=500).epochs is None
    with pytest.raises(SharetuneError, match="but got epochs=2 and tokens=500"):
        Recipe(epochs=2, tokens=500)
    assert Recipe(tokens=6400, max_length=64).passes(50) == 2.0
    assert Recipe(tokens=6400).passes(50, 32.0) == 4.0
    assert Recipe(epochs=3).passes(50) == 3.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"precision": "int8"}, "'auto', 'float32', 'bfloat16' or 'float16'"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"micro_batch": "some"}, "'auto'"),
        ({"max_grad_norm": -1}, "max_grad_norm"),
        ({"optimizer": "sgd"}, "'adamw', 'adafactor' or 'adamw-8bit'"),
    ],
)
def test_settings_of_the_training_that_are_no_good(setting, message):
    with pytest.raises(SharetuneError, match=message):
        Recipe(**setting)


def test_parts_as_large_as_the_batch_are_the_batch():
    assert Candidate(recipe=Recipe(micro_batch=16)).bound(STACKS) == Candidate().bound(STACKS)
    assert Candidate(recipe=Recipe(micro_batch=8)).bound(STACKS) != Candidate().bound(STACKS)
    sizes = (None, 1, 8, "auto")
    assert [Recipe(micro_batch=m).has_parts for m in sizes] == [True, False, True, True]


def test_a_recipe_of_defaults_is_written_as_before_there_were_more_keys():
    """A teacher that an older version trained has this name in the cache."""
    recipe = Recipe(steps=7).plain()
    written = recipe.model_dump_json(exclude=recipe.unknown_before())
    assert digest(["m", written]) == "5b4faf40595e7701"
    exact = Recipe(steps=7, precision="bfloat16").plain()
    assert "precision" in exact.model_dump(exclude=exact.unknown_before())
