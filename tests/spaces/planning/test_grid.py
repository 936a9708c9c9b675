"""The grid of edits: what is in it, and what a space leaves of it."""

from collections import Counter

import pytest

from sharetune.spaces.planning.grid import grid, grid_of
from sharetune.spaces.space import Space
from sharetune.spaces.stack_shape import StackShape
from tests.spaces.planning.scores import DECODER

SIX = {"layers": StackShape(6, 12, 1536)}


def space(*templates):
    return Space.model_validate({"plan": templates})


def texts(edits):
    return [str(one).removeprefix("layers ") for one in edits]


def test_the_grid_of_a_decoder_of_thirty_layers():
    edits = grid(DECODER, widths={"model.layers": 576})
    assert len(edits) == 735
    assert Counter((one.kind, "+".join(one.parts)) for one in edits) == {
        ("drop", "attention+ffn"): 30,
        ("narrow", "ffn"): 210,
        ("narrow", "attention"): 60,
        ("tie", "ffn"): 58,
        ("tie", "attention"): 58,
        ("tie", "attention+ffn"): 58,
        ("bank", "ffn"): 58,
        ("bank", "attention"): 58,
        ("basis", "ffn"): 29,
        ("lowrank", "ffn"): 29,
        ("lowrank", "attention"): 29,
        ("merge", "attention+ffn"): 58,
    }
    assert edits == grid(DECODER, widths={"model.layers": 576})


def test_attention_is_narrowed_by_whole_kv_groups():
    edits = [one for one in grid(DECODER) if one.kind == "narrow" and one.layers == (7,)]
    attention = [one.group.form.kept(3) for one in edits if one.parts == ("attention",)]
    assert attention == [2, 1]
    neurons = [8 * one.group.form.kept(192) for one in edits if one.parts == ("ffn",)]
    assert neurons == [1384, 1232, 1072, 848, 616, 384, 152]


def test_both_orders_of_a_pair():
    edits = grid(SIX, kinds=("tie", "merge"))
    assert [text for text in texts(edits) if text.startswith("2..3")] == [
        "2..3 tie ffn from first",
        "2..3 tie ffn from last",
        "2..3 tie attention from first",
        "2..3 tie attention from last",
        "2..3 tie attention+ffn from first",
        "2..3 tie attention+ffn from last",
        "2..3 merge from first",
        "2..3 merge from last",
    ]


def test_ranks_are_made_from_the_width():
    edits = grid(DECODER, widths={"model.layers": 576}, kinds=("basis", "lowrank"))
    # 2 * 576 * 1536 parameters a pair: 0.8 of them at rank 388, 0.65 at an added rank of 62
    assert [str(one) for one in edits if one.layers == (0, 1)] == [
        "model.layers 0..1 basis 388 ffn from mean",
        "model.layers 0..1 lowrank 62 ffn from mean",
        "model.layers 0..1 lowrank 43 attention from mean",
    ]
    assert grid(DECODER, kinds=("basis", "lowrank")) == ()


def test_every_stack_has_its_edits():
    both = grid({"encoder": StackShape(2, 4, 64), "decoder": StackShape(3, 4, 64)}, kinds=("drop",))
    assert [(one.stack, one.layers) for one in both] == [
        ("encoder", (0,)),
        ("encoder", (1,)),
        ("decoder", (0,)),
        ("decoder", (1,)),
        ("decoder", (2,)),
    ]


def test_the_only_layer_is_not_dropped():
    edits = grid({"layers": StackShape(1, 4, 64)})
    assert {one.kind for one in edits} == {"narrow"}


def test_layers_of_unequal_width_are_not_tied():
    edits = grid({"layers": StackShape(3, 4, (64, 64, 32))}, kinds=("tie", "drop"))
    ffn = {one.layers for one in edits if one.parts == ("ffn",)}
    assert ffn == {(0, 1)}
    assert {one.layers for one in edits if one.kind == "drop"} == {(0,), (1,), (2,)}


def test_a_space_without_groups_allows_the_whole_grid():
    assert grid_of(space(), SIX) == grid(SIX)


def test_a_space_gives_layers_parts_forms_and_starts():
    allowed = space({"layers": "1..3", "parts": "ffn", "form": "tie", "init": "mean"})
    assert texts(grid_of(allowed, SIX)) == ["1..2 tie ffn from mean", "2..3 tie ffn from mean"]


def test_of_a_range_the_middle_and_both_ends_are_tried():
    bank = {"bank": {"ratio": {"low": 0.3, "high": 0.9, "step": 0.1}}}
    allowed = space({"layers": "1..2", "parts": "ffn", "form": bank})
    assert texts(grid_of(allowed, SIX)) == [
        "1..2 bank 0.6 ffn from mean",
        "1..2 bank 0.3 ffn from mean",
        "1..2 bank 0.9 ffn from mean",
    ]
    ranks = {"lowrank": {"rank": {"low": 4, "high": 64, "log": True}}}
    allowed = space({"layers": "1..2", "parts": "ffn", "form": ranks})
    assert [one.group.form.rank for one in grid_of(allowed, SIX)] == [16, 4, 64]


def test_choices_of_a_space_are_tried_in_turn():
    forms = {"choices": ["drop", {"narrow": {"keep": 0.5}}, {"reuse": {"what": "kv"}}]}
    allowed = space({"layers": {"within": "1..-2", "min": 3}, "count": 2, "form": forms})
    assert texts(grid_of(allowed, {"layers": StackShape(5, 12, 1536)})) == [
        "1 drop",
        "2 drop",
        "3 drop",
        "1 narrow 0.5 attention",
        "2 narrow 0.5 attention",
        "3 narrow 0.5 attention",
        "1 narrow 0.5 ffn",
        "2 narrow 0.5 ffn",
        "3 narrow 0.5 ffn",
        "1..3 reuse kv",
    ]


def test_parts_that_a_space_does_not_name_are_edits_of_their_own():
    assert texts(grid_of(space({"layers": "0..1", "form": "tie"}), SIX)) == [
        "0..1 tie attention from first",
        "0..1 tie attention from last",
        "0..1 tie ffn from first",
        "0..1 tie ffn from last",
    ]
    named = space({"layers": "0..1", "form": "tie", "parts": ["attention", "ffn"], "init": "first"})
    assert texts(grid_of(named, SIX)) == ["0..1 tie attention+ffn from first"]


def test_combinations_that_no_group_can_have_are_left_out():
    parts = {"choices": [["attention", "norms"], ["ffn"]]}
    forms = {"choices": ["tie", {"bank": {"ratio": 0.5}}]}
    edits = grid_of(space({"layers": "0..1", "parts": parts, "form": forms, "init": "first"}), SIX)
    assert texts(edits) == [
        "0..1 tie attention+norms from first",
        "0..1 tie ffn from first",
        "0..1 bank 0.5 ffn from first",
    ]


@pytest.mark.parametrize("stack", ["encoder", None])
def test_a_space_may_name_a_stack(stack):
    stacks = {"encoder": StackShape(2, 4, 64), "decoder": StackShape(2, 4, 64)}
    edits = grid_of(space({"layers": "0..1", "stack": stack, "form": "drop"}), stacks)
    assert {one.stack for one in edits} == ({"encoder"} if stack else {"encoder", "decoder"})


def test_experts_are_narrowed_where_there_are_any():
    stacks = {"layers": StackShape(depth=2, heads=4, neurons=0, experts=8)}
    found = [str(edit) for edit in grid(stacks, kinds=["narrow"]) if "experts" in edit.group.parts]
    assert found == [
        f"layers {layer} narrow {keep} experts"
        for keep in ("0.9", "0.8", "0.5", "0.2")
        for layer in range(2)
    ]
