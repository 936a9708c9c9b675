"""Plans: canonical form, equality, round trip, and errors that say what to do."""

import pytest

from sharetune.spaces import Group, SharingPlan
from sharetune.spaces.errors import PlanError, SharetuneError
from sharetune.spaces.inits import step
from sharetune.spaces.plan import presets
from sharetune.spaces.stack_shape import StackShape

BERT = {"layers": StackShape(depth=12, heads=12, neurons=3072)}
MINILM = {"layers": StackShape(depth=6, heads=12, neurons=1536)}


def plan(text: str) -> SharingPlan:
    return SharingPlan.from_yaml(f"groups: [{text}]")


def test_ratio_zero_is_no_sharing():
    assert plan("{layers: 1..4, form: {bank: {ratio: 0}}}") == SharingPlan()


def test_ratio_one_is_a_tie():
    assert plan("{layers: 1..4, form: {bank: {ratio: 1}}}") == plan("{layers: 1..4, form: tie}")


def ratios(text: str, layers: str = "1..4") -> SharingPlan:
    return plan(f"{{layers: {layers}, form: {{bank: {{ratio: {text}}}}}}}")


def test_equal_ratios_of_all_layers_are_one():
    assert ratios("[0.5, 0.5, 0.5, 0.5]") == ratios("0.5")
    assert ratios("[0, 0, 0, 0]") == SharingPlan()
    assert ratios("[1, 1, 1, 1]") == plan("{layers: 1..4}")


def test_what_one_layer_reads_alone_is_private():
    assert ratios("[0.5, 0.3, 0.9, 0.5]") == ratios("[0.5, 0.3, 0.5, 0.5]")
    assert ratios("[0.7, 0.2]", "[1, 2]") == ratios("0.2", "[1, 2]")
    assert ratios("[0.7, 0, 0, 0]") == SharingPlan()


def test_layers_that_read_nothing_are_not_in_the_group():
    assert ratios("[0.5, 0, 0.3, 0.5]") == ratios("[0.5, 0.3, 0.5]", "[1, 3, 4]")
    first = plan("{layers: 1..3, init: 1, form: {bank: {ratio: [0, 0.5, 0.5]}}}")
    assert first.groups[0].init == 1


def test_unequal_ratios_are_split_between_banks_and_rounded():
    apart = plan("{layers: 0..3, assign: {cycle: 2}, form: {bank: {ratio: [0.5, 1, 0.5, 1]}}}")
    assert apart == plan("{layers: [0, 2], form: {bank: {ratio: 0.5}}}, {layers: [1, 3]}")
    bound = ratios("[0.5001, 0.2501, 0.5, 0.999999]").bound(BERT)
    assert bound == ratios("[0.5, 0.25, 0.5, 0.5]").bound(BERT)
    assert str(bound) == "layers 1..4 bank 0.5,0.25,0.5,0.5 attention+ffn from mean"
    assert SharingPlan.from_yaml(bound.to_yaml()) == bound


def test_unequal_ratios_need_one_for_each_layer():
    with pytest.raises(SharetuneError, match="but got 2 for 4 layers"):
        ratios("[0.5, 0.3]")
    with pytest.raises(PlanError, match="but got 2 for 6 layers"):
        ratios("[0.5, 0.3]", "all").bound(MINILM)
    with pytest.raises(SharetuneError, match="should be less than or equal to 1"):
        ratios("[0.5, 1.3, 0.1, 0.1]")


def test_cycle_of_all_layers_is_no_sharing():
    assert plan("{layers: 0..3, assign: {cycle: 4}}") == SharingPlan()


def test_owner_maps_are_the_banks_they_make():
    cycle = plan("{layers: 0..5, assign: {cycle: 3}}")
    owners = plan("{layers: 0..5, assign: {owners: [7, 1, 9, 7, 1, 9]}}")
    by_hand = plan("{layers: [2, 5]}, {layers: [0, 3]}, {layers: [1, 4]}")
    assert cycle == owners == by_hand
    assert hash(cycle) == hash(by_hand)


def test_attention_and_ffn_of_the_same_layers_are_one_group():
    split = plan("{layers: 1..4, parts: ffn}, {layers: 1..4, parts: [q, k, v, o]}")
    assert split == plan("{layers: 1..4}")


@pytest.mark.parametrize(
    ("banks", "layers", "starts"),
    [
        (1, 6, [0]),
        (2, 6, [0, 5]),
        (3, 6, [0, 2, 5]),
        # Relaxed Recursive Transformers, arXiv 2410.20672: 18 layers as two rounds of 9
        (9, 18, [0, 2, 4, 6, 8, 11, 13, 15, 17]),
    ],
)
def test_stepwise_starts_keep_the_first_and_the_last_layer(banks, layers, starts):
    assert [step(bank, banks, layers) for bank in range(banks)] == starts


def test_a_stepwise_start_is_a_layer_for_each_bank():
    stepwise = plan("{layers: 0..5, assign: {cycle: 3}, init: stepwise}")
    assert stepwise == plan(
        "{layers: [0, 3], init: 0}, {layers: [1, 4], init: 2}, {layers: [2, 5], init: 5}"
    )
    assert [group.init for group in stepwise.groups] == ["first", 2, "last"]
    assert str(stepwise.groups[1]) == "1, 4 tie attention+ffn from layer 2"
    assert SharingPlan.from_yaml(stepwise.to_yaml()) == stepwise


def test_starts_from_the_same_layer_are_the_same():
    assert plan("{layers: 2..5, init: 3}") == plan("{layers: 2..5, init: middle}")
    assert plan("{layers: 2..3, init: middle}") == plan("{layers: 2..3, init: first}")
    assert plan("{layers: 2..5, init: stepwise}") == plan("{layers: 2..5, init: first}")


def test_a_start_must_be_a_layer():
    with pytest.raises(PlanError, match="init: 6 is not a layer of stack 'layers', which has 6"):
        plan("{layers: 1..4, init: 6}").bound(MINILM)


def test_layers_counted_from_the_end():
    assert plan("{layers: 1..-2}").bound(MINILM) == plan("{layers: 1..4}").bound(MINILM)
    assert plan("{layers: -2..-1}").bound(MINILM) == plan("{layers: [4, 5]}").bound(MINILM)


def test_ratios_are_those_that_whole_units_reach():
    reached = plan("{layers: 1..4, parts: attention, form: {bank: {ratio: 0.7}}}").bound(MINILM)
    same = plan("{layers: 1..4, parts: attention, form: {bank: {ratio: 0.66}}}").bound(MINILM)
    other = plan("{layers: 1..4, parts: attention, form: {bank: {ratio: 0.75}}}").bound(MINILM)
    assert reached == same
    assert reached != other


def test_tiny_ratio_rounds_to_no_sharing_and_large_to_a_tie():
    assert SharingPlan.range(1, 4, 0.001).bound(MINILM) == SharingPlan()
    tie = plan("{layers: 1..4}").bound(MINILM)
    assert SharingPlan.range(1, 4, 0.9999).bound(MINILM) == tie


def test_narrow_is_one_group_for_all_that_keep_the_same():
    whole = plan("{layers: 1..3, form: {narrow: {keep: 0.5}}}").bound(BERT)
    apart = plan(
        "{layers: [1, 3], parts: ffn, form: {narrow: {keep: 0.5}}},"
        "{layers: [2], parts: ffn, form: {narrow: {keep: 0.5001}}},"
        "{layers: 1..3, parts: attention, form: {narrow: {keep: 0.49}}, units: first, init: last}"
    ).bound(BERT)
    assert whole == apart
    assert str(whole) == "layers 1..3 narrow 0.5 attention+ffn"


def test_widths_that_a_layer_can_have():
    bound = plan("{layers: 0..1, form: {narrow: {keep: 0.66}}}").bound(
        {"layers": StackShape(depth=4, heads=3, neurons=1536)}
    )
    assert str(bound) == "layers 0..1 narrow 0.66 ffn; layers 0..1 narrow 0.7 attention"
    # 2 of 3 KV groups, 8 * 127 of 1,536 neurons
    left = bound.shapes_left({"layers": StackShape(4, 3, 1536)})["layers"]
    assert (left.heads, left.neurons) == ((2, 2, 3, 3), (1016, 1016, 1536, 1536))
    least = plan("{layers: 0..1, form: {narrow: {keep: 0.001}}}").bound(MINILM)
    assert least.shapes_left(MINILM)["layers"].units(["q", "fc_in"], 0) == (1, 1)


@pytest.mark.parametrize("keep", [1, 0.9999])
def test_layers_that_keep_all_are_no_group(keep):
    assert plan(f"{{layers: all, form: {{narrow: {{keep: {keep}}}}}}}").bound(BERT) == SharingPlan()


def test_ratios_go_by_what_narrowing_left():
    narrowed = "{layers: 1..2, parts: attention, form: {narrow: {keep: 0.25}}}"
    bound = plan(f"{narrowed}, {{layers: 1..2, parts: attention, form: {{bank: {{ratio: 0.5}}}}}}")
    # 2 of the 3 heads that are left
    assert [group.form.share() for group in bound.bound(BERT).groups] == [0, 0.5]
    assert bound.bound(BERT).bound(BERT) == bound.bound(BERT)


def test_a_merge_is_a_group_for_each_layer_that_stays():
    pairs = plan("{layers: 2..5, form: merge, assign: {sequence: 2}, init: first, units: first}")
    assert pairs == plan(
        "{layers: 2..3, form: merge, init: 2}, {layers: 4..5, form: merge, init: middle}"
    )
    assert str(pairs.bound(BERT)) == "layers 2..3 merge from first; layers 4..5 merge from first"
    assert pairs.bound(BERT).spans("layers") == {2: (2, 3), 4: (4, 5)}
    assert pairs.bound(BERT).order("layers", 12) == (0, 1, 2, 4, 6, 7, 8, 9, 10, 11)
    assert plan("{layers: [3], form: merge}") == SharingPlan()


def test_shapes_with_a_number_for_each_layer():
    assert StackShape(3, (4, 4, 4), [8, 16, 8]) == StackShape(3, 4, (8, 16, 8))
    assert StackShape(2, 4, (64, 64)).is_uniform
    assert StackShape(3, 4, (8, 16, 8)).units(["q", "fc_in"], 1) == (4, 2)


def test_kept_top_layers_leave_their_group():
    kept = plan("{layers: 0..5}").keeping_top(2, MINILM)
    assert kept == plan("{layers: 0..3}").bound(MINILM)


@pytest.mark.parametrize("name", presets())
def test_presets_round_trip_and_are_idempotent(name):
    bound = SharingPlan.preset(name).bound(BERT)
    assert SharingPlan.from_yaml(bound.to_yaml()) == bound
    assert SharingPlan.model_validate_json(bound.model_dump_json()) == bound
    assert bound.bound(BERT) == bound


def test_there_is_a_preset_for_each_named_method():
    assert presets() == [
        "albert-all",
        "albert-attention",
        "albert-ffn",
        "cycle",
        "cycle-rev",
        "immediate-repeat",
        "sandwich",
        "sequence",
    ]


def test_range_and_ratio_in_one_call():
    assert SharingPlan.range(2, 7, 0.7) == plan("{layers: 2..7, form: {bank: {ratio: 0.7}}}")
    assert SharingPlan.range(2, 7, 0.7).to_yaml() == (
        "groups:\n- layers: 2..7\n  form:\n    bank: {ratio: 0.7}\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{layers: 1..4, form: {bank: {ratio: 1.3}}}", "less than or equal to 1, but got 1.3"),
        ("{layers: 1..4}, {layers: 3..5}", "groups must not overlap, but attention and ffn 3..4"),
        ("{layers: 1..4, parts: q}, {layers: 4..5}", "must not overlap, but q 4 are in two"),
        ("{layers: 1..4, form: drop}, {layers: 4..5, parts: ffn}", "but layers 4 are in two"),
        ("{layers: 4..1}", "`first <= last` must hold for layers, but got '4..1'"),
        ("{layers: [1, 1]}", "layers must not repeat, but got [1, 1]"),
        ("{layers: 1..4, form: bnk}", "unknown form: 'bnk'"),
        ("{layers: 1..4, assign: {cycel: 2}}", "unknown assignment: 'cycel'"),
        ("{layers: 1..4, assign: {cycle: 5}}", "`1 <= cycle <= 4` must hold"),
        ("{layers: 1..4, assign: {owners: [0, 1]}}", "each of the group's 4 layers, but got 2"),
        ("{layers: 1..4, init: mena}", "unknown init: 'mena'"),
        ("{layers: 1..4, parts: atention}", "unknown part: 'atention'"),
        ("{layers: 1..4, parts: norms}", "must share at least one matrix"),
        ("{layers: 1..4, parts: [ffn, norms], form: {bank: {ratio: 0.5}}}", "only be shared whole"),
        ("{layers: 1..4, form: {narrow: {keep: 0}}}", "narrow.keep: input should be greater than"),
        ("{layers: 1..4, parts: q, form: {narrow: {keep: 0.5}}}", "narrow takes whole parts, but"),
        (
            "{layers: 1..4, times: 2, form: {narrow: {keep: 0.5}}}",
            "narrow says how wide layers are",
        ),
        (
            "{layers: 1..4, form: {narrow: {keep: 0.5}}}, {layers: [4], form: drop}",
            "layers 4 are removed in one and narrowed in another",
        ),
        (
            "{layers: 1..3, form: merge, init: last}, {layers: [2], form: {narrow: {keep: 0.5}}}",
            "layers 2 are removed in one and narrowed in another",
        ),
        ("{layers: 1..3, form: merge}, {layers: 3..4, form: tie}", "layers 3 are in two groups"),
        ("{layers: [1, 3], form: merge}", "the place of adjacent ones only, but got 1, 3"),
        ("{layers: 1..4, form: merge, init: 0}", "must start from one of them, but got init: 0"),
        ("{layers: 1..4, form: merge, times: 2}", "layers that a merge removes cannot run 2 times"),
    ],
)
def test_mistakes_name_the_rule_and_the_value(text, message):
    with pytest.raises(SharetuneError) as caught:
        plan(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("group", "message", "hint"),
    [
        (Group(layers="3..6"), "layer 6 is beyond stack 'layers', which has 6", "use 0..5"),
        (
            Group(layers="0..1", stack="decoder"),
            "no stack 'decoder', and the model has",
            "name one",
        ),
    ],
)
def test_a_plan_for_another_model(group, message, hint):
    with pytest.raises(PlanError, match=message) as caught:
        SharingPlan(groups=(group,)).bound(MINILM)
    assert hint in caught.value.hint


def test_overlap_that_shows_only_once_the_depth_is_known():
    overlapping = plan("{layers: 3..-1}, {layers: 0..3}")
    with pytest.raises(SharetuneError, match="attention and ffn 3 are in two groups"):
        overlapping.bound(MINILM)


MIXED = {"layers": StackShape(depth=4, heads=4, neurons=0, experts=(8, 8, 6, 6))}


def test_experts_are_narrowed_to_whole_ones():
    bound = plan("{layers: 0..2, parts: experts, form: {narrow: {keep: 0.55}}}").bound(MIXED)
    assert str(bound) == "layers 0..2 narrow 0.5 experts"
    assert bound.shapes_left(MIXED)["layers"].experts == (4, 4, 3, 6)


def test_layers_of_unlike_numbers_of_experts_tie_other_parts():
    assert plan("{layers: 0..3, parts: attention}").bound(MIXED).groups
    with pytest.raises(
        PlanError, match="layer 1 of stack 'layers' has 8 experts and layer 2 6 exp"
    ):
        plan("{layers: 1..2, parts: experts}").bound(MIXED)
