"""Scores of single edits in the report: what they cost, what they predict, and rivals."""

from dataclasses import replace

import pytest

from sharetune.results.formatting import THIN
from sharetune.results.judging.equal_size import meetings
from sharetune.results.judging.predictions import agreements
from sharetune.results.page.report import render
from sharetune.results.page.scores import heat_maps
from sharetune.results.reading.scores import stored_scores
from sharetune.results.reading.study import read_study
from sharetune.spaces import SharingPlan
from sharetune.spaces.planning.edits import Edit
from sharetune.spaces.planning.score_file import ScoreFile, ScoresHeader
from sharetune.spaces.planning.solving import Scored
from tests.results.conftest import complete

UNSHARED = {"parameters": 200.0, "bytes": 800.0, "flops": 100.0}


def drop(*layers):
    return SharingPlan.drop(list(layers), "layers")


def edit(cost, saved, **group):
    one = Edit.read({"stack": "layers", **group})
    return Scored(one, cost, {"parameters": saved, "bytes": 4 * saved, "flops": 0.0})


SCORES = [
    *(edit(0.1 * (layer + 1), 20.0, layers=[layer], form="drop") for layer in range(6)),
    *(
        edit(0.02 * (layer + 1), 4.0, layers=[layer], parts="ffn", form={"narrow": {"keep": 0.5}})
        for layer in range(6)
    ),
    edit(0.3, 10.0, layers="0..1", parts="ffn", init="first"),
]


def known(distance, predicted):
    return {"distance": distance, "predicted_distance": predicted}


def with_facts(trial, **facts):
    return {**trial, "facts": {**trial["facts"], **facts}}


@pytest.fixture
def scored_run(make_run):
    run = make_run(
        complete(0.90, 200.0, anchor="unshared"),
        with_facts(complete(0.88, 180.0, drop(0), anchor="solved-0"), **known(0.1, 0.1)),
        with_facts(complete(0.86, 160.0, drop(0, 1), anchor="solved-1"), **known(0.4, 0.3)),
        with_facts(complete(0.80, 140.0, drop(0, 1, 2)), **known(0.5, 0.6)),
        with_facts(
            complete(
                0.70,
                120.0,
                drop(0, 1, 2, 3),
                anchor="drops-for-3",
                rival={"of": 3, "kind": "drops"},
            ),
            **known(1.1, 1.0),
        ),
        with_facts(complete(0.60, 110.0, drop(2, 3, 4, 5)), **known(1.9, 1.8)),
        scoring={"edits": 13, "wanted": 13, "seconds": 2.0},
        config={"name": "demo", "sampler": "guided"},
    )
    file = ScoreFile(run / "scores.jsonl")
    file.begin(ScoresHeader({}, UNSHARED, {}))
    for number, one in enumerate(SCORES):
        file.add_score(one, None, outside=number % 2 == 1)
    return run


def test_every_edit_has_a_cell_at_its_first_layer(scored_run):
    (found,) = heat_maps(stored_scores(scored_run))
    assert found.layers == (0, 1, 2, 3, 4, 5)
    assert list(found.rows) == ["drop", "narrow 0.5 ffn", "tie ffn from first"]
    assert [cell.text for cell in found.rows["drop"]][:3] == ["0.01", "0.02", "0.03"]
    assert found.rows["drop"][1].hint == (
        f"layers 1 drop: distance 0.2, saves 10.0{THIN}% of the parameters"
    )
    assert [cell is None for cell in found.rows["tie ffn from first"]] == [False, *[True] * 5]
    shades = [cell.shade for cell in found.rows["drop"]]
    assert shades == sorted(shades) and shades[0] < 3


def test_small_prices_are_multiples_of_a_power_of_ten(scored_run):
    stored = stored_scores(scored_run)
    scored = {key: replace(one, cost=one.cost / 1e5) for key, one in stored.scored.items()}
    outside = {key: replace(one, cost=one.cost / 1e5) for key, one in stored.outside.items()}
    (found,) = heat_maps(replace(stored, scored=scored, outside=outside))
    assert found.unit == 1e-7
    assert [cell.text for cell in found.rows["drop"]][:3] == ["1", "2", "3"]


def test_rank_correlations_are_those_of_the_plans(scored_run):
    found = {(one.first, one.second): one for one in agreements(read_study(scored_run))}
    both = found["predicted distance", "measured distance"]
    assert both.plans == 5
    assert (both.spearman, both.kendall) == pytest.approx((1.0, 1.0))
    trained = found["measured distance", "trained accuracy"]
    assert (trained.spearman, trained.kendall) == pytest.approx((1.0, 1.0))
    assert str(both) == (
        "predicted distance and measured distance: Spearman 1.00, Kendall 1.00 over 5 plans"
    )


def test_every_size_on_the_front_meets_the_best_plan_of_each_kind(scored_run):
    found = meetings(read_study(scored_run), stored_scores(scored_run))
    assert [meeting.member.value("parameters") for meeting in found] == [110, 120, 140, 160, 180]
    rivals = found[-1].rivals
    assert {kind: str(rival.plan) for kind, rival in rivals.items()} == {
        "drops": "layers 0 drop",
        "narrowing": "layers 0..4 narrow 0.5 ffn",
    }
    assert (rivals["drops"].number, rivals["drops"].quality) == (1, 0.88)
    assert rivals["narrowing"].number is None
    assert rivals["narrowing"].predicted == pytest.approx(0.3)
    assert set(found[0].rivals) == {"drops"}


def test_the_page_shows_costs_agreement_rivals_and_rules(scored_run):
    page = render(read_study(scored_run))
    for words in (
        "What single edits cost",
        '<th scope="row">narrow 0.5 ffn</th>',
        "Spearman 1.00, Kendall 1.00 over 5 plans",
        "Rivals of equal size",
        "narrowing alone",
        "predicted distance 0.3",
        "Chosen by: ",
        "solved from scores",
        "rival of trial 3: drops alone",
        "sampler guided",
    ):
        assert words in page, words


def test_a_study_without_scores_has_no_such_sections(make_run):
    page = render(read_study(make_run(complete(0.9, 200.0, anchor="unshared"))))
    assert "What single edits cost" not in page and "Rivals of equal size" not in page


@pytest.mark.slow
def test_damaged_scores_do_not_spoil_the_report(scored_run):
    (scored_run / "scores.jsonl").write_text("no JSON\n")
    assert "What single edits cost" in render(read_study(scored_run))  # the figures alone
    assert stored_scores(scored_run) is None


@pytest.mark.parametrize(
    ("attributes", "rule"),
    [
        ({"anchor": "unshared"}, "anchor: the model as it is"),
        ({"anchor": "plan-2"}, "the study file"),
        ({"anchor": "solved-0"}, "solved from scores"),
        ({"earlier": {"study": "a", "number": 3}}, "an earlier study's front"),
        ({"finalist": 0}, "finalist: trial 0 again"),
        ({}, "sampler auto"),
    ],
)
def test_each_candidate_says_which_rule_chose_it(make_run, attributes, rule):
    frame = read_study(make_run(complete(0.9, 200.0, **attributes))).frame
    assert frame["chosen_by"].tolist() == [rule]
