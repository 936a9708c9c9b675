"""Exchanging edits: what is proposed, and that it lowers what is measured."""

import pytest

from sharetune.spaces.planning.exchange import improve
from sharetune.spaces.planning.solving import Scored, needs_of, solve
from tests.spaces.planning.scores import UNSHARED, edit, language_model_scores

DROPS = [
    Scored(edit(layers=[i], form="drop"), cost, {"parameters": 100})
    for i, cost in enumerate([4.0, 1.0, 1.25, 1.5, 1.75, 4.0])
]


def removed(plan):
    return {int(layer) for group in plan.groups for layer in group.removed()}


def neighbours_cost_more(plan):
    """Single effects, and half a nat for each two dropped layers that are adjacent."""
    layers = removed(plan)
    return sum(DROPS[i].cost for i in layers) + 0.5 * sum(i + 1 in layers for i in layers)


def test_a_drop_moves_to_another_layer():
    (start,) = solve(DROPS, {"parameters": 400}, {"parameters": 600}, count=1)
    assert removed(start.plan) == {1, 2}
    found = improve(start, DROPS, {"parameters": 200}, neighbours_cost_more, measurements=4)
    assert found[0].measured == 2.75
    assert found[0].predicted == 2.25
    best = min(found, key=lambda one: one.measured)
    assert removed(best.solution.plan) == {1, 3}
    assert best.measured == 2.5


@pytest.mark.slow
def test_what_is_measured_is_measured_once_and_keeps_the_budget():
    scored = language_model_scores()
    limits = {"parameters": 100e6}
    (start,) = solve(scored, limits, UNSHARED, count=1)
    plans = []

    def measure(plan):
        plans.append(plan)
        return start.cost + 0.01 * len(plans)

    found = improve(start, scored, needs_of(scored, limits, UNSHARED), measure, measurements=6)
    assert len(found) == len(plans) == len({plan.to_yaml() for plan in plans}) == 6
    assert [one.solution.plan for one in found] == plans
    for one in found[1:]:
        assert one.solution.saved["parameters"] >= UNSHARED["parameters"] - 100e6
        assert len(set(one.solution.edits) ^ set(start.edits)) <= 4


def test_it_ends_when_nothing_is_left_to_exchange():
    (start,) = solve(DROPS[:2], {"parameters": 100}, {"parameters": 200}, count=1)
    found = improve(start, DROPS[:2], {"parameters": 100}, neighbours_cost_more, measurements=9)
    assert [removed(one.solution.plan) for one in found] == [{1}, {0}]


def test_an_edit_that_turns_out_dear_is_exchanged():
    def layer_one_costs_four(plan):
        return sum(4.0 if i == 1 else DROPS[i].cost for i in removed(plan))

    (start,) = solve(DROPS, {"parameters": 300}, {"parameters": 600}, count=1)
    found = improve(start, DROPS, {"parameters": 300}, layer_one_costs_four, measurements=4)
    assert found[0].measured == 6.75
    best = min(found, key=lambda one: one.measured)
    assert removed(best.solution.plan) == {2, 3, 4}
    assert best.measured == 4.5


def test_two_edits_may_go_for_one_that_saves_as_much():
    half = {"narrow": {"keep": 0.5}}
    scored = [
        Scored(edit(layers=[1], form="drop"), 1.0, {"parameters": 100}),
        Scored(edit(layers=[2], parts="ffn", form=half), 0.5, {"parameters": 50}),
        Scored(edit(layers=[3], parts="ffn", form=half), 0.5, {"parameters": 50}),
        Scored(edit(layers=[4], form="drop"), 1.25, {"parameters": 100}),
        Scored(edit(layers=[5], parts="ffn", form=half), 0.75, {"parameters": 50}),
    ]

    def narrowing_costs_three(plan):
        narrowed = sum(len(one.layers) for one in plan.groups if one.form.name == "narrow")
        return sum({1: 1.0, 4: 1.25}[i] for i in removed(plan)) + 3.0 * narrowed

    (start,) = solve(scored, {"parameters": 400}, {"parameters": 600}, count=1)
    assert str(start.plan) == "layers 1 drop; layers 2..3 narrow 0.5 ffn"
    found = improve(start, scored, {"parameters": 200}, narrowing_costs_three, measurements=4)
    assert found[0].measured == 7.0
    best = min(found, key=lambda one: one.measured)
    assert str(best.solution.plan) == "layers 1, 4 drop"
    assert best.measured == 2.25
