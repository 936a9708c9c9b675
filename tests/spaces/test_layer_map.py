"""The table that drawings are made from."""

from sharetune.spaces import SharingPlan
from sharetune.spaces.group import Group
from sharetune.spaces.layer_map import Reading, bank_name, layer_map
from sharetune.spaces.layer_text import layers_as_text, unchanged_text
from sharetune.spaces.stack_shape import StackShape

STACKS = {"layers": StackShape(depth=4, heads=12, neurons=1536)}


def rows(text):
    return layer_map(SharingPlan.from_yaml(text).bound(STACKS), {"layers": 4})


def test_private_shared_and_removed_layers():
    first, second, third, fourth = rows(
        "groups: [{layers: 0..1, parts: [ffn, q], form: {bank: {ratio: 0.5}}},"
        "{layers: [3], form: drop}]"
    )
    assert first.ffn == second.ffn == (Reading("A", 0.5, "bank"),)
    assert first.attention == (Reading("A", 0.5, "bank", ("q",)),)
    assert (third.attention, third.ffn, third.removed) == ((), (), False)
    assert fourth.removed


def test_each_bank_has_a_letter():
    layers = rows("groups: [{layers: 0..3, assign: {cycle: 2}}]")
    assert [layer.ffn[0].bank for layer in layers] == ["A", "B", "A", "B"]
    assert [bank_name(i) for i in (0, 25, 26, 52)] == ["A", "Z", "A1", "A2"]


def test_narrowed_and_merged_layers():
    zero, one, two, three = rows(
        "groups: [{layers: 0..1, parts: ffn, form: {narrow: {keep: 0.25}}},"
        "{layers: 0..1, form: {bank: {ratio: 0.5}}}, {layers: 2..3, form: merge, init: last}]"
    )
    assert (zero.keeps("ffn"), zero.keeps("attention")) == (0.25, 1.0)
    assert one.ffn == (Reading("A", 0.5, "bank"),)
    assert (two.removed, two.merged_into, two.span) == (True, 3, ())
    assert (three.removed, three.merged_into, three.span) == (False, None, (2, 3))


def test_narrowed_and_merged_layers_as_text():
    plan = SharingPlan.from_yaml(
        "groups: [{layers: 0..1, parts: ffn, form: {narrow: {keep: 0.5}}},"
        "{layers: [0, 1], form: {bank: {ratio: 0.5}}}, {layers: 2..3, form: merge, init: first}]"
    )
    lines = layers_as_text(plan.bound(STACKS), {"layers": 4}).split("\n")
    shared = "attention AAAAA..... A 50 %        ffn AA...      keeps 50 %, A 50 %"
    whole = ".......... private     "
    assert lines == [
        f"layers  0  {shared}",
        f"layers  1  {shared}",
        f"layers  2  attention {whole}  ffn {whole}  in place of 2..3",
        "layers  3  merged into 2",
    ]


def test_parts_that_no_plan_changes_are_named_by_stack():
    mixture = StackShape(depth=4, heads=12, neurons=0)
    assert mixture.lacking_parts() == ["ffn"]
    assert unchanged_text({"encoder": [], "decoder": mixture.lacking_parts()}) == [
        "No plan shares or narrows the ffn of stack 'decoder', whose matrices are of no known "
        "kind; a mixture's experts can be tied or narrowed, as `parts: experts`."
    ]
    assert unchanged_text({"layers": StackShape(4, 0, 0).lacking_parts()}) == [
        "No plan shares or narrows the attention or the ffn of stack 'layers', whose matrices are "
        "of no known kind; a mixture's experts can be tied or narrowed, as `parts: experts`."
    ]


def test_narrowed_experts_are_drawn_as_the_ffn():
    form = {"narrow": {"keep": 0.5}}
    plan = SharingPlan(groups=(Group(layers=[0], stack="layers", parts="experts", form=form),))
    (layer,) = layer_map(plan, {"layers": 1})
    assert (layer.keeps("ffn"), layer.keeps("attention")) == (0.5, 1.0)
    text = layers_as_text(plan, {"layers": 1})
    assert text.endswith("ffn .....      keeps 50 % of experts")


def test_neurons_and_experts_of_one_layer_are_told_apart():
    rule = {"layers": [0], "stack": "layers"}
    groups = (
        Group(**rule, parts="ffn", form={"narrow": {"keep": 0.5}}),
        Group(**rule, parts="experts", form={"narrow": {"keep": 0.25}}),
    )
    plan = SharingPlan(groups=groups)
    text = layers_as_text(plan, {"layers": 1})
    assert text.endswith("ffn .....      keeps 50 %, keeps 25 % of experts")
