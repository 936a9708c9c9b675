"""Anchors: what each plan is on stacks of one and of several layers."""

import pytest

from sharetune.spaces.anchors import ANCHORS, USUAL
from sharetune.spaces.stack_shape import StackShape

STACKS = {"encoder": StackShape(5, 4, 128), "decoder": StackShape(3, 4, 128)}


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("unshared", "unshared"),
        (
            "tied",
            "decoder 0..2 tie attention+ffn from mean; encoder 0..4 tie attention+ffn from mean",
        ),
        ("drop-third", "decoder 1 drop; encoder 2 drop"),
        ("drop-half", "decoder 1 drop; encoder 1..2 drop"),
        ("drop-to-one", "decoder 1..2 drop; encoder 1..4 drop"),
    ],
)
def test_plans_by_name(name, plan):
    assert str(ANCHORS[name](STACKS).bound(STACKS)) == plan


def test_a_stack_of_one_layer_has_nothing_to_drop():
    assert ANCHORS["drop-to-one"]({"layers": StackShape(1, 4, 128)}).groups == ()


def test_a_study_that_names_none_has_four():
    assert USUAL == ("unshared", "tied", "drop-third", "drop-half")
