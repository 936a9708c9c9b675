"""Rivals: the best plan of one kind alone at a size."""

from sharetune.spaces.forms import FORMS
from sharetune.spaces.planning.rivals import rivals
from sharetune.spaces.planning.solving import Scored, solve
from tests.spaces.planning.scores import UNSHARED, edit, language_model_scores


def scored(cost, saved, **group):
    return Scored(edit(**group), cost, {"parameters": saved})


SCORES = [
    scored(0.5, 100, layers=[0], form="drop"),
    scored(0.25, 100, layers=[1], form="drop"),
    scored(0.125, 50, layers=[0], parts="ffn", form={"narrow": {"keep": 0.5}}),
    scored(0.0625, 50, layers=[1], parts="ffn", form={"narrow": {"keep": 0.5}}),
    scored(0.75, 60, layers="0..1", parts="ffn"),
    scored(0.5, 40, layers="0..1", parts="attention", form={"bank": {"ratio": 0.5}}),
    scored(0.25, 30, layers="0..1", parts="ffn", form={"lowrank": {"rank": 8}}),
    scored(0.0, 100, layers="0..1", form="merge", init="first"),
]


def test_each_kind_has_its_best_plan():
    found = rivals(SCORES, {"parameters": 420}, {"parameters": 500})
    assert {kind: str(one.plan) for kind, one in found.items()} == {
        "drops": "layers 1 drop",
        "narrowing": "layers 0..1 narrow 0.5 ffn",
        "sharing": "layers 0..1 tie ffn from mean; layers 0..1 bank 0.5 attention from mean",
    }
    assert {kind: one.cost for kind, one in found.items()} == {
        "drops": 0.25,
        "narrowing": 0.1875,
        "sharing": 1.25,
    }


def test_a_kind_that_does_not_come_to_the_size_is_missing():
    assert set(rivals(SCORES, {"parameters": 470}, {"parameters": 500})) == {
        "drops",
        "narrowing",
        "low rank",
        "sharing",
    }
    assert rivals(SCORES, {"parameters": 10}, {"parameters": 500}) == {}


def test_no_rival_beats_the_plan_of_all_kinds():
    scores = language_model_scores()
    for limit in (125e6, 113e6, 92e6):
        (best,) = solve(scores, {"parameters": limit}, UNSHARED, count=1)
        found = rivals(scores, {"parameters": limit}, UNSHARED)
        assert found
        assert all(best.cost <= one.cost for one in found.values())


def test_every_form_that_shares_has_a_rival():
    sharing = {name for name, form in FORMS.items() if form.shares}
    assert sharing == {"bank", "tie", "lowrank", "basis", "atoms", "reuse"}
