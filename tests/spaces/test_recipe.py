"""Recipes and candidates."""

import pytest

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.plan import StackShape

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
