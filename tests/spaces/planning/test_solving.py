"""Solving: equal to a search through all subsets, by hand, in time, and refused with a hint."""

import json
from itertools import islice
from time import process_time

import pytest

from sharetune.spaces.errors import PlanError
from sharetune.spaces.planning.solving import Scored, front, solve
from tests.spaces.planning.scores import (
    UNSHARED,
    all_plans,
    edit,
    language_model_scores,
    random_scores,
)

LAYERS = [
    Scored(edit(layers=[0], form="drop"), 1.0625, {"parameters": 100}),
    Scored(edit(layers=[1], form="drop"), 0.5, {"parameters": 100}),
    Scored(edit(layers=[1], parts="ffn", form={"narrow": {"keep": 0.5}}), 0.25, {"parameters": 40}),
    Scored(edit(layers="1..2", parts="attention"), 0.125, {"parameters": 30}),
    Scored(edit(layers="2..3", parts="ffn"), 0.75, {"parameters": 60}),
]


def numbers(scored, solution):
    edits = [one.edit for one in scored]
    return tuple(sorted(edits.index(edit) for edit in solution.edits))


def test_the_front_by_hand():
    found = front(LAYERS, "parameters")
    assert [(one.saved["parameters"], one.cost) for one in found] == [
        (0, 0.0),
        (30, 0.125),
        (40, 0.25),
        (70, 0.375),
        (100, 0.5),
        (130, 1.125),
        (160, 1.25),
        (170, 1.4375),
        (200, 1.5625),
        (230, 2.1875),
        (260, 2.3125),
    ]
    assert [numbers(LAYERS, one) for one in found[2:7]] == [
        (2,),
        (2, 3),
        (1,),
        (2, 3, 4),
        (1, 4),
    ]


def test_the_cheapest_plans_by_hand():
    found = solve(LAYERS, {"parameters": 420}, {"parameters": 500}, count=3)
    assert [(one.cost, numbers(LAYERS, one)) for one in found] == [
        (0.5, (1,)),
        (0.875, (3, 4)),
        (1.0, (2, 4)),
    ]
    assert str(found[1].plan) == (
        "layers 1..2 tie attention from mean; layers 2..3 tie ffn from mean"
    )


def test_a_limit_the_unshared_model_meets_takes_no_edit():
    best, *others = solve(LAYERS, {"parameters": 500}, {"parameters": 500}, count=3)
    assert (best.edits, best.cost, best.saved) == ((), 0, {"parameters": 0})
    assert [one.cost for one in others] == [0.125, 0.25]


def test_a_layer_of_each_stack_stays():
    drops = [Scored(edit(layers=[i], form="drop"), 1.0 + i, {"parameters": 10}) for i in range(3)]
    assert [one.saved["parameters"] for one in front(drops, "parameters")] == [0, 10, 20]
    with pytest.raises(PlanError):
        solve(drops, {"parameters": 5}, {"parameters": 35})
    with pytest.raises(PlanError):
        solve(drops, {"parameters": 5}, {"parameters": 35}, apart=2)


def some_slow(seeds):
    """All seeds; all but the first are slow."""
    first, *others = seeds
    return [first, *(pytest.param(seed, marks=pytest.mark.slow) for seed in others)]


@pytest.mark.parametrize("first", some_slow(range(0, 120, 20)))
def test_fronts_equal_a_search_through_all_subsets(first):
    for seed in range(first, first + 20):
        scored = random_scores(seed, 11)
        least = {}
        for cost, saved, _ in all_plans(scored):
            least[saved["a"]] = min(cost, least.get(saved["a"], cost))
        expected = [
            (saved, cost)
            for saved, cost in sorted(least.items())
            if all(cost < other for more, other in least.items() if more > saved)
        ]
        found = front(scored, "a")
        assert list(zip(found.saved, found.costs, strict=True)) == expected
        assert [(one.saved["a"], one.cost) for one in found] == expected


@pytest.mark.parametrize("first", some_slow(range(0, 80, 20)))
def test_next_best_plans_equal_a_search_through_all_subsets(first):
    for seed in range(first, first + 20):
        scored, need = random_scores(seed, 10), 8 + seed % 9
        plans = [(cost, own) for cost, saved, own in all_plans(scored) if saved["a"] >= need]
        found = list(islice(front(scored, "a").best(need), len(plans) + 1))
        assert [one.cost for one in found] == sorted(cost for cost, _ in plans)
        assert {numbers(scored, one) for one in found} == {own for _, own in plans}


@pytest.mark.parametrize("first", some_slow(range(0, 80, 20)))
def test_several_limits_equal_a_search_through_all_subsets(first):
    for seed in range(first, first + 20):
        scored, needs = random_scores(seed, 10), {"a": 6 + seed % 7, "b": 9}
        plans = sorted(
            cost
            for cost, saved, _ in all_plans(scored)
            if all(saved[name] >= need for name, need in needs.items())
        )
        limits = {name: 100 - need for name, need in needs.items()}
        if plans:
            found = solve(scored, limits, {"a": 100, "b": 100}, count=4)
            assert [one.cost for one in found] == plans[:4]
            assert len({numbers(scored, one) for one in found}) == len(found)
        else:
            with pytest.raises(PlanError):
                solve(scored, limits, {"a": 100, "b": 100})


@pytest.mark.slow
def test_plans_that_are_to_lie_apart():
    for seed in range(20):
        scored = random_scores(seed, 10)
        chosen = []
        plans = [(c, set(own)) for c, saved, own in all_plans(scored) if saved["a"] >= 10]
        for cost, own in sorted(plans, key=lambda plan: plan[0]):
            if all(len(own ^ other) >= 4 for _, other in chosen):
                chosen.append((cost, own))
        found = solve(scored, {"a": 90}, {"a": 100}, count=2, apart=4)
        assert found[0].cost == chosen[0][0]
        assert len(set(found[0].edits) ^ set(found[1].edits)) >= 4


@pytest.mark.slow
def test_both_ways_find_the_same_plans_of_a_language_model():
    scored = language_model_scores()
    one = solve(scored, {"parameters": 100e6}, UNSHARED, count=2)
    slack = {"parameters": 100e6, "bytes": 600e6}
    two = solve(scored, slack, UNSHARED, count=2)
    assert [plan.cost for plan in one] == pytest.approx([plan.cost for plan in two], rel=1e-9)
    assert one[0].edits == two[0].edits
    assert UNSHARED["parameters"] - one[0].saved["parameters"] <= 100e6


def test_over_five_hundred_edits_of_thirty_layers_take_well_under_a_second():
    """Measured in seconds of one core: 0.1 for the front, 0.2 for five plans, 0.1 for two limits
    at once."""
    scored = language_model_scores()
    assert len(scored) == 735
    began = process_time()
    assert len(front(scored, "parameters")) > 500
    whole = process_time() - began
    assert len(solve(scored, {"parameters": 92e6}, UNSHARED, count=5)) == 5
    one = process_time() - began - whole
    solve(scored, {"parameters": 100e6, "flops": 210e9}, UNSHARED, count=1)
    two = process_time() - began - whole - one
    print(f"front {whole:.2f} s, one limit {one:.2f} s, two limits {two:.2f} s")
    assert max(whole, one, two) < 1


def test_edits_of_layers_that_lie_apart_are_solved_but_have_no_front():
    apart = [*LAYERS, Scored(edit(layers=[0, 3], parts="ffn"), 0.0625, {"parameters": 80})]
    (best,) = solve(apart, {"parameters": 420}, {"parameters": 500}, count=1)
    assert numbers(apart, best) == (5,)
    with pytest.raises(
        PlanError, match="a front is of edits of adjacent layers, but got: layers 0, 3"
    ):
        front(apart, "parameters")


def test_a_plan_too_small_is_refused_with_the_least_there_is():
    with pytest.raises(PlanError) as refused:
        solve(LAYERS, {"parameters": 200}, {"parameters": 500})
    assert refused.value.message == "no plan of these 5 edits has at most 200 parameters"
    assert refused.value.hint == (
        "raise the limit (the least, each alone: 240 parameters), or score edits that save more"
    )


def test_a_measure_that_no_edit_has_is_refused():
    with pytest.raises(
        PlanError, match="not every edit says what it saves of 'latency'"
    ) as refused:
        solve(LAYERS, {"latency": 20}, {"latency": 30})
    assert refused.value.hint == "available: parameters"
    with pytest.raises(PlanError, match="at least one limit"):
        solve(LAYERS, {}, {})


def test_scores_round_trip():
    again = [Scored.read(json.loads(json.dumps(one.written()))) for one in LAYERS]
    assert again == LAYERS
