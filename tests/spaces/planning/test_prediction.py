"""Distances of whole plans are put together from the scores of single edits."""

import pytest

from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.prediction import Predictor
from sharetune.spaces.planning.solving import Scored
from sharetune.spaces.stack_shape import StackShape
from tests.spaces.planning.scores import edit

STACKS = {"layers": StackShape(4, 4, 64)}


def scored(cost, **group):
    return Scored(edit(**group), cost, {"parameters": 1})


SCORES = [
    *(scored(0.1 * (layer + 1), layers=[layer], form="drop") for layer in range(4)),
    scored(0.2, layers=[0], parts="ffn", form={"narrow": {"keep": 0.75}}),
    scored(0.6, layers=[0], parts="ffn", form={"narrow": {"keep": 0.5}}),
    scored(0.4, layers="0..1", parts="ffn", form={"bank": {"ratio": 0.5}}),
    scored(0.8, layers="1..2", parts="ffn", form={"bank": {"ratio": 0.5}}),
    scored(1.0, layers="0..1", parts="ffn", init="first"),
    scored(3.0, layers="0..1", parts="ffn", init="last"),
    scored(0.5, layers="0..1", parts="attention", init="first"),
]


@pytest.mark.parametrize(
    ("groups", "predicted"),
    [
        ([], 0.0),
        ([{"layers": [1], "form": "drop"}], 0.2),
        ([{"layers": "1..3", "form": "drop"}], 0.9),  # 0.2 + 0.3 + 0.4
        ([{"layers": [0], "parts": "ffn", "form": {"narrow": {"keep": 0.6}}}], 0.44),
        ([{"layers": [0], "parts": "ffn", "form": {"narrow": {"keep": 0.2}}}], 0.96),
        ([{"layers": [0], "parts": "ffn", "form": {"narrow": {"keep": 0.9}}}], 0.08),
        ([{"layers": "0..2", "parts": "ffn", "form": {"bank": {"ratio": 0.2}}}], 0.48),
        ([{"layers": "2..3", "parts": "ffn", "form": {"bank": {"ratio": 0.5}}}], 0.6),
        ([{"layers": "0..1"}], 2.5),  # the FFN's mean over both starts, and the attention's
        ([{"layers": "0..1", "parts": "ffn"}], 2.0),
        ([{"layers": "0..1", "form": {"atoms": {"count": 1}}}], None),
    ],
)
def test_a_plan_costs_what_its_edits_do(groups, predicted):
    plan = SharingPlan.model_validate({"groups": groups}).bound(STACKS)
    found = Predictor(SCORES).predict(plan, STACKS)
    assert found == (None if predicted is None else pytest.approx(predicted))


def test_experts_are_predicted_from_experts_alone():
    stacks = {"layers": StackShape(4, 4, 64, experts=8)}
    form = {"narrow": {"keep": 0.5}}
    scores = [
        scored(0.2, layers=[0], parts="ffn", form=form),
        scored(0.6, layers=[0], parts="experts", form=form),
        scored(0.3, layers=[0], parts="attention", form=form),
        scored(0.5, layers="0..1"),
        scored(0.7, layers="0..1", parts="experts"),
    ]

    def predicted(**group):
        plan = SharingPlan.model_validate({"groups": [group]}).bound(stacks)
        return Predictor(scores).predict(plan, stacks)

    quarter = {"narrow": {"keep": 0.75}}
    assert predicted(layers=[0], parts="experts", form=quarter) == pytest.approx(0.24)  # 0.8
    both = predicted(layers=[0], parts=["attention", "experts"], form=quarter)
    assert both == pytest.approx(0.36)
    assert predicted(layers="2..3", parts="experts") == 0.7
    assert predicted(layers="2..3") == 0.5
