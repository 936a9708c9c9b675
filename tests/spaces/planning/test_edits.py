"""Edits: one bound group each, keys and JSON, and which go together in a plan."""

import json
import random

import pytest

from sharetune.spaces.errors import PlanError, SharetuneError
from sharetune.spaces.group import Group
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import Edit, plan_of
from sharetune.spaces.planning.grid import grid
from sharetune.spaces.stack_shape import StackShape
from tests.spaces.planning.scores import DECODER, edit

STACKS = {"layers": StackShape(6, 12, 1536)}


def test_an_edit_says_what_it_changes():
    tie = edit(layers="2..3", parts="ffn", init="last")
    assert (tie.kind, tie.stack, tie.layers, tie.parts) == ("tie", "layers", (2, 3), ("ffn",))
    assert tie.slots == {("layers", 2, "ffn"), ("layers", 3, "ffn")}
    assert tie.removed == ()
    assert str(tie) == "layers 2..3 tie ffn from last"


@pytest.mark.parametrize(
    ("group", "parts"),
    [
        ({"layers": [2], "form": "drop"}, ("attention", "ffn")),
        ({"layers": "2..3", "form": "merge", "init": "first"}, ("attention", "ffn")),
        ({"layers": "2..3", "parts": ["ffn", "norms"]}, ("attention", "ffn")),
        ({"layers": "2..3", "parts": "ffn", "times": 2}, ("attention", "ffn")),
        ({"layers": "2..3", "form": {"reuse": {"what": "kv"}}}, ("attention",)),
        ({"layers": [2], "parts": "attention", "form": {"narrow": {"keep": 0.5}}}, ("attention",)),
    ],
)
def test_parts_that_an_edit_takes(group, parts):
    assert edit(**group).parts == parts


def test_a_group_makes_an_edit_for_each_bank():
    tied = Edit.of(Group(layers="all", assign={"cycle": 2}), STACKS)
    assert [one.layers for one in tied] == [(0, 2, 4), (1, 3, 5)]
    assert Edit.of(Group(layers="1..2", form={"bank": {"ratio": 0.001}}), STACKS) == ()
    narrow = Group(layers=[1], form={"narrow": {"keep": 0.73}})
    assert [str(one) for one in Edit.of(narrow, STACKS)] == [
        "layers 1 narrow 0.73 ffn",
        "layers 1 narrow 0.75 attention",
    ]


@pytest.mark.parametrize(
    "group",
    [
        {"layers": "1..2"},
        {"layers": "1..-2", "stack": "layers"},
        {"layers": "0..3", "stack": "layers", "assign": {"cycle": 2}},
        {"layers": [1], "stack": "layers"},
    ],
)
def test_what_is_no_edit(group):
    with pytest.raises(PlanError, match="an edit is one bound group that changes the model"):
        Edit.read(group)


def test_keys_are_stable_text():
    tie = edit(layers="2..3", parts="ffn", init="last")
    assert tie.key() == '{"init":"last","layers":"2..3","parts":["ffn"],"stack":"layers"}'
    assert edit(layers=[5], form="drop").key() == '{"form":"drop","layers":[5],"stack":"layers"}'


def test_edits_round_trip_and_have_keys_of_their_own():
    edits = grid(DECODER, widths={"model.layers": 576})
    again = [Edit.read(json.loads(json.dumps(one.written()))) for one in edits]
    assert again == list(edits)
    assert [hash(one) for one in again] == [hash(one) for one in edits]
    assert len({one.key() for one in edits}) == len(edits)


def test_untrained_a_merge_from_one_layer_is_a_drop_of_the_others():
    first = edit(layers="2..3", form="merge", init="first")
    last = edit(layers="2..3", form="merge", init="last")
    assert first.untrained() == edit(layers=[3], form="drop")
    assert last.untrained() == edit(layers=[2], form="drop")
    mean = edit(layers="2..3", form="merge")
    assert mean.untrained() == mean
    tie = edit(layers="2..3", parts="ffn")
    assert tie.untrained() == tie


def test_disjoint_edits_make_one_plan():
    edits = [
        edit(layers=[1], form="drop"),
        edit(layers=[4], form="drop"),
        edit(layers="2..3", parts="ffn", init="first"),
        edit(layers=[3], parts="attention", form={"narrow": {"keep": 0.5}}),
    ]
    assert plan_of(edits) == SharingPlan.from_yaml(
        "groups: [{stack: layers, layers: [1, 4], form: drop},"
        " {stack: layers, layers: 2..3, parts: ffn, init: first},"
        " {stack: layers, layers: [3], parts: attention, form: {narrow: {keep: 0.5}}}]"
    )
    assert plan_of([]) == SharingPlan()


def test_edits_of_the_same_part_of_a_layer_are_refused():
    with pytest.raises(PlanError) as refused:
        plan_of([edit(layers="2..3", parts="ffn"), edit(layers=[3], form="drop")])
    assert refused.value.message == (
        "each part of a layer takes one edit, but ffn of layer 3 has two: "
        "layers 2..3 tie ffn from mean; layers 3 drop"
    )
    assert refused.value.hint == "leave one of the two out"


def test_edits_of_two_stacks_may_have_the_same_layers():
    plan = plan_of(
        [edit("encoder", layers=[1], form="drop"), edit("decoder", layers=[1], form="drop")]
    )
    assert [group.stack for group in plan.groups] == ["decoder", "encoder"]


def test_disjoint_edits_of_the_grid_make_a_bound_plan():
    edits = grid(DECODER, widths={"model.layers": 576})
    for seed in range(40):
        chosen, taken = [], set()
        for one in random.Random(seed).sample(edits, 60):
            if not one.slots & taken:
                chosen.append(one)
                taken |= one.slots
        plan = plan_of(chosen)
        assert plan.bound(DECODER) == plan
        assert len(plan.order("model.layers", 30)) == 30 - sum(len(one.removed) for one in chosen)


def test_a_group_that_cannot_be_is_no_edit():
    with pytest.raises(SharetuneError, match="narrow takes whole parts"):
        edit(layers=[1], parts=["q", "o"], form={"narrow": {"keep": 0.5}})


def test_narrowed_experts_leave_the_attention_to_another_edit():
    stacks = {"layers": StackShape(depth=2, heads=4, neurons=0, experts=8)}
    group = Group(layers=[0], parts="experts", form={"narrow": {"keep": 0.5}})
    (edit,) = Edit.of(group, stacks)
    assert edit.parts == ("ffn",)
    (tied,) = Edit.of(Group(layers="0..1", parts="experts"), stacks)
    assert tied.parts == ("attention", "ffn")
