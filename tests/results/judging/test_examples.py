"""Intervals of one training's numbers, by the parts of the split that it was measured on.

The numbers are worked out by hand: 20 nats over 8 predictions are 2.5, and the parts' rests -0.5,
-1, 1, 0.5 and 0, so the standard error is sqrt(2.5 x 5 / 4) / 8 = 0.22097; Student's t of 4 is
2.77645.
"""

import json

import pytest

from sharetune.results.as_json import studies_as_json
from sharetune.results.card import ExportText, model_card
from sharetune.results.judging.caveats import caveats
from sharetune.results.judging.examples import differ, example_interval, ratio_interval
from sharetune.results.judging.rows import rows_of
from sharetune.results.judging.summary import summarise
from sharetune.results.page.comparison import matches, read_studies
from sharetune.results.page.report import write_report
from sharetune.results.reading.study import read_study
from sharetune.results.terminal import front_table
from sharetune.spaces import SharingPlan
from sharetune.spaces.objectives import OBJECTIVES, Objective, SumRatio
from tests.results.conftest import complete

PERPLEXITY, LOSS = OBJECTIVES["perplexity"], OBJECTIVES["eval_loss"]
HALF = SharingPlan.range(1, 4, 0.5)
COUNTS = {"predictions": [1, 2, 2, 1, 2], "bytes": [4, 8, 8, 4, 8]}
FIRST = COUNTS | {"nats": [2.0, 4.0, 6.0, 3.0, 5.0]}
SECOND = COUNTS | {"nats": [2.4, 4.9, 6.8, 3.3, 5.8]}
FIRST_NUMBERS = {"perplexity": 12.182494, "eval_loss": 2.5}
SECOND_NUMBERS = {"perplexity": 18.174145, "eval_loss": 2.9}


def measured(numbers, parameters, sums, plan=None, **attributes):
    trial = complete(numbers["perplexity"], parameters, plan, metrics=numbers, **attributes)
    return trial | ({} if sums is None else {"part_sums": sums})


@pytest.fixture
def run(make_run):
    def make(*trials, **study):
        given = trials or (
            measured(FIRST_NUMBERS, 200.0, FIRST, anchor="unshared"),
            measured(SECOND_NUMBERS, 150.0, SECOND, HALF),
        )
        more = {"objectives": ["perplexity", "parameters"], "directions": ["minimize"] * 2}
        config = {"name": "demo", "model": "gpt2", "task": {"name": "text-generation"}}
        rows = {"train": 9, "test": 5}
        kept = more | {"config": config, "rows": rows, "reference": None} | study
        return make_run(*given, **kept)

    return make


def test_a_perplexity_has_the_interval_of_a_ratio_over_the_parts(run):
    first, second = rows_of(read_study(run()).frame)
    found = example_interval(first, PERPLEXITY)
    assert (found.low, found.high) == pytest.approx((6.59623, 22.50001), rel=1e-4)
    assert (found.count, found.over) == (5, "parts")
    loss = example_interval(first, LOSS)
    assert (loss.low, loss.high) == pytest.approx((1.886486, 3.113514), abs=1e-5)
    assert example_interval(second, OBJECTIVES["accuracy"]) is None


def test_over_the_same_parts_two_models_are_told_apart_though_their_intervals_overlap(run):
    first, second = rows_of(read_study(run()).frame)
    # differences of 0.4, 0.9, 0.8, 0.3, 0.8 nats: e to 0.4 -+ 2.77645 x sqrt(0.02 x 5 / 4) / 8
    low, high = ratio_interval(second, first, PERPLEXITY)
    assert (low, high) == pytest.approx((1.41217, 1.57596), rel=1e-4)
    # 1.16 -+ 2.77645 x sqrt(0.132 x 5 / 4) / 20
    assert ratio_interval(second, first, LOSS) == pytest.approx((1.10361, 1.21639), rel=1e-4)
    one, other = (example_interval(row, PERPLEXITY) for row in (first, second))
    assert one.high > other.low and differ(first, second, PERPLEXITY)
    assert differ(first, first, PERPLEXITY) is False


def test_other_parts_are_not_paired(run):
    others = SECOND | {"predictions": [2, 2, 1, 1, 2]}
    given = measured(FIRST_NUMBERS, 2.0, FIRST), measured(SECOND_NUMBERS, 1.0, others)
    first, second = rows_of(read_study(run(*given)).frame)
    assert ratio_interval(second, first, PERPLEXITY) is None
    assert differ(first, second, PERPLEXITY) is False  # the intervals overlap


@pytest.mark.parametrize(
    "sums",
    [
        None,  # a run of before
        {"nats": [1.0] * 4, "predictions": [1] * 4},
        {"nats": [2.0] * 5, "predictions": [1] * 5},
        {"nats": [1.0] * 5, "predictions": [1] * 4},
        {"nats": [0.0] * 5, "predictions": [0] * 5},
        {"bytes": [1] * 5},
    ],
)
def test_without_enough_parts_that_differ_there_is_no_interval(run, sums):
    (row,) = rows_of(read_study(run(measured(FIRST_NUMBERS, 1.0, sums))).frame)
    assert example_interval(row, PERPLEXITY) is None


def test_a_fraction_s_interval_stays_in_0_to_1(run):
    sums = {"matches": [1, 1, 1, 1, 0], "answers": [1] * 5}
    trial = measured({"perplexity": 1.0, "exact_match": 0.8}, 1.0, sums)
    (row,) = rows_of(read_study(run(trial)).frame)
    found = example_interval(row, OBJECTIVES["exact_match"])
    assert (found.low, found.high) == pytest.approx((0.24471, 1.0), rel=1e-4)


def test_an_objective_of_one_s_own_says_of_which_sums_it_is_made(run):
    own = Objective("own", "own", "minimize", source="trained", ratio=SumRatio("nats", "words"))
    assert Objective.read(json.loads(json.dumps(own.written()))) == own
    sums = {"nats": FIRST["nats"], "words": COUNTS["predictions"]}
    trial = measured({"perplexity": 1.0, "own": 2.5}, 1.0, sums)
    study = read_study(run(trial, objective_specs=[own.written()]))
    (found,) = (o for o in study.known if o.name == "own")
    interval = example_interval(*rows_of(study.frame), found)
    assert (interval.low, interval.high) == pytest.approx((1.886486, 3.113514), abs=1e-5)


@pytest.mark.slow
def test_everything_that_shows_a_front_shows_the_interval(run):
    path = run()
    study = read_study(path)
    assert "6.60–22.5" in front_table(path)
    told = " ".join(summarise(study)).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "On 5 parts of the test split its 95 % interval is 6.60–22.5." in told
    (document,) = json.loads(studies_as_json([path]))["studies"]
    smallest = document["choices"][0]["interval"]
    assert smallest == {
        "low": pytest.approx(6.59623, rel=1e-4),
        "high": pytest.approx(22.50001, rel=1e-4),
        "count": 5,
        "over": "parts",
    }
    # e to 2.9 -+ 2.77645 x sqrt(2.22 x 5 / 4) / 8
    assert "perplexity (95 % interval 10.2 to 32.4)" in model_card(
        study, 1, HALF, ExportText("shared", "load()")
    )
    page = write_report(path).read_text("utf-8")
    assert "6.60–22.5" in page and "1.412–1.576" in page
    assert "intervals by the parts of the test split" in page
    (warned,) = (text for text in caveats(study) if text.startswith("Few test examples"))
    assert "trial 1's ratio to the unshared model on the same examples: 1.412–1.576" in warned


def test_compared_studies_are_paired_over_the_same_parts(run):
    one = run(measured(FIRST_NUMBERS, 1.0, FIRST), folder="one")
    other = run(measured(SECOND_NUMBERS, 1.0, SECOND), folder="two")
    (match,) = matches(read_studies([one, other]))
    assert match.same == "beyond the intervals"
