"""Finalists: means over further seeds, Student's intervals, and where each one stands."""

from dataclasses import replace
from typing import Any

import pytest
from optuna.trial import TrialState

from sharetune.results.card import ExportText, model_card
from sharetune.results.judging.caveats import caveats
from sharetune.results.judging.choices import choices
from sharetune.results.judging.finals import final_study, has_finals, middle_run, standings
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.judging.seeds import Spread, spreads, student_interval
from sharetune.results.judging.summary import Counts, summarise, tiles
from sharetune.results.page.candidate_pages import draw_cards
from sharetune.results.page.figures import draw_figures
from sharetune.results.page.report import write_report
from sharetune.results.page.review import review
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import read_study
from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.stack_shape import StackShape
from tests.results.conftest import complete

HALF, MOST = SharingPlan.range(1, 4, 0.5), SharingPlan.range(0, 5, 0.9)
SPLITS = {
    "rows": {"train": 100, "validation": 20, "test": 50},
    "config": {"name": "demo", "model": "tiny", "task": {"name": "text-classification"}},
}


def again(of: int, plan: SharingPlan | None, seed: int, accuracy: float, **more: Any):
    """A retraining of trial `of` of 100 parameters: `accuracy` on the test split, less on the
    validation split."""
    written = Candidate(plan=plan or SharingPlan(), recipe=Recipe(seed=seed)).written()
    test = {"metrics": {"accuracy": accuracy}, "per_class": {"no": {"support": 50}}}
    return complete(accuracy - 0.1, 100.0) | {
        record.FINALIST: of,
        record.CANDIDATE: written,
        record.TEST: test,
        **more,
    }


@pytest.fixture
def finished(make_run):
    """The unshared model, a finalist that equals it, one that loses to it, and one dominated."""
    plans = [None, HALF, MOST]
    scores = [(0.90, 0.92, 0.94), (0.91, 0.92, 0.93), (0.50, 0.52, 0.54)]
    runs = [
        again(of, plan, seed + 1, score)
        for of, (plan, row) in enumerate(zip(plans, scores, strict=True))
        for seed, score in enumerate(row)
    ]
    searched = [
        complete(0.95, 200.0, anchor="unshared"),
        complete(0.99, 100.0, HALF),
        complete(0.96, 150.0, MOST),
        complete(0.40, 190.0, SharingPlan.range(1, 2, 0.5)),
    ]
    return make_run(*searched, *runs, **SPLITS)


def test_student_s_interval_of_a_mean():
    # deviation 0.02, t with 2 degrees of freedom 4.3027: 0.92 -+ 4.3027 x 0.02 / sqrt(3)
    assert student_interval([0.90, 0.92, 0.94]) == pytest.approx((0.92, 0.8703, 0.9697), abs=5e-5)
    # deviation 0.1414, t with 1 degree of freedom 12.706
    assert student_interval([0.4, 0.6]) == pytest.approx((0.5, -0.7706, 1.7706), abs=5e-5)


def test_a_finalist_s_numbers_are_means_over_its_further_seeds_on_the_test_split(finished):
    study = read_study(finished)
    final = final_study(study).frame.set_index("number")
    assert final["accuracy"][[0, 1, 2]].tolist() == pytest.approx([0.92, 0.92, 0.52])
    assert final["parameters"][[0, 1, 2]].tolist() == [200.0, 100.0, 150.0]
    assert (final["final"][0].low, final["final"][0].high) == pytest.approx(
        (0.8703, 0.9697), abs=5e-5
    )
    assert [final["final"][number].seeds for number in (0, 1, 2)] == [3, 3, 3]
    assert final["final"].count() == 3
    assert final["accuracy"][3] == 0.40  # no finalist: as searched
    assert study.frame["accuracy"][0] == 0.95
    found = spreads(study.frame, study.quality)
    assert {number: spread.numbers for number, spread in found.items()} == {
        0: (4, 5, 6), 1: (7, 8, 9), 2: (10, 11, 12),
    }  # fmt: skip


def test_a_finalist_is_beaten_where_its_interval_is_dominated(finished):
    rows = rows_of(final_study(read_study(finished)).frame)
    words = {row.number: str(row.final.standing) for row in rows if row.final}
    assert words == {
        0: "dominated by trial 1, within the intervals",
        1: "on the front",
        2: "dominated by trial 1, beyond the intervals",
    }


def test_a_lead_over_a_drop_of_the_same_size_is_told_seed_by_seed(make_run):
    drop = SharingPlan.drop([1, 2, 3, 4, 5], "layers")
    searched = [
        complete(0.95, 200.0, anchor="unshared"),
        complete(0.93, 100.0, SharingPlan.range(0, 5, 1.0), anchor="tied"),
        complete(0.70, 100.0, drop, anchor="drop-to-one"),
    ]
    scores = {0: (0.9, 0.9, 0.9), 1: (0.90, 0.92, 0.94), 2: (0.80, 0.81, 0.85)}
    plans = [None, SharingPlan.range(0, 5, 1.0), drop]
    runs = [
        again(of, plans[of], seed + 1, score)
        for of, row in scores.items()
        for seed, score in enumerate(row)
    ]
    # differences 0.10, 0.11 and 0.09: deviation 0.01, 0.10 -+ 4.3027 x 0.01 / sqrt(3)
    told = " ".join(summarise(read_study(make_run(*searched, *runs)))).replace("\u202f", " ")
    assert "at 1 of 1 size, beyond the 95 % interval over seeds at 1 (drop-to-one: " in told
    assert "+10.0 points by trial 1, +7.5 points to +12.5 points over 3 seeds)." in told


@pytest.mark.parametrize(
    ("low", "high", "size", "word"),
    [
        (0.80, 0.89, 100.0, "beaten"),  # its better end is below the other's worse end
        (0.80, 0.90, 100.0, "open"),  # equal there, and in size
        (0.80, 0.90, 101.0, "beaten"),
        (0.80, 0.91, 100.0, "open"),
        (0.80, 0.89, 90.0, "front"),  # smaller
        (0.80, 0.89, 101.0, "beaten"),
    ],
)
def test_sizes_are_exact_and_accuracies_are_not(low, high, size, word):
    objectives = [OBJECTIVES["accuracy"], OBJECTIVES["parameters"]]
    rows = [
        Row(7, cells={"accuracy": 0.92, "parameters": 100.0}),
        Row(8, cells={"accuracy": 0.85, "parameters": size}),
    ]
    found = {"accuracy": {7: Spread((1,), 0.92, 0.90, 0.94), 8: Spread((2,), 0.85, low, high)}}
    standing = standings(rows, objectives, found)
    assert (standing[7].word, standing[8].word) == ("front", word)


def test_two_that_are_equal_beat_neither():
    rows = [Row(n, cells={"eval_loss": 1.0}) for n in (1, 2)]
    found = {"eval_loss": {n: Spread((n,), 1.0, 1.0, 1.0) for n in (1, 2)}}
    standing = standings(rows, [OBJECTIVES["eval_loss"]], found)
    assert {one.word for one in standing.values()} == {"front"}


def test_before_every_finalist_ended_on_two_seeds_nothing_is_final(make_run):
    first = complete(0.95, 200.0, anchor="unshared"), complete(0.9, 100.0, HALF)
    runs = [again(0, None, 1, 0.9), again(1, HALF, 1, 0.8), again(0, None, 2, 0.9)]
    study = read_study(make_run(*first, *runs))
    assert final_study(study) is study and not has_finals(study)
    interrupted = again(1, HALF, 2, 0.8, state=TrialState.FAIL, reason="interrupted", values=None)
    assert not has_finals(final_study(read_study(make_run(*first, *runs, interrupted, folder="b"))))
    study = read_study(make_run(*first, *runs, again(1, HALF, 2, 0.8), folder="c"))
    assert has_finals(final_study(study))


def test_a_seed_without_a_result_is_told(make_run):
    lost = {"state": TrialState.PRUNED, "values": None, "reason": "accuracy is nan"}
    runs = [again(0, None, 1, 0.9), again(0, None, 2, 0.8), again(0, None, 3, 0.8, **lost)]
    study = read_study(make_run(complete(0.95, 200.0, anchor="unshared"), *runs))
    final = final_study(study).frame["final"][0]
    assert (final.seeds, final.lost) == (2, 1)
    assert "Trial 0 came to no result on 1 of 3 further seeds." in caveats(study)


def test_choices_and_the_front_go_by_the_final_numbers(finished):
    study = read_study(finished)
    assert [(choice.number, choice.quality) for choice in choices(study)] == [(1, "92.0\u202f%")]
    assert choices(study)[0].sure == "89.5–94.5 over 3 seeds"
    found = review(study)
    assert (found["front"], found["first"]) == ([1], 1)
    assert {t["n"]: t["kind"] for t in found["trials"]} == {
        0: "anchor", 1: "front", 2: "dominated", 3: "dominated",
        **dict.fromkeys(range(4, 13), "repeat"),
    }  # fmt: skip
    assert tiles(study)[2].value == "1"


def test_it_is_said_which_split_a_number_is_from(finished):
    study = read_study(finished)
    text = " ".join(summarise(study)).replace("\u202f", " ")
    assert str(Counts.of(study.frame)) == "4 trained, 9 trained again as finalists"
    assert (
        "Trials are selected and measured on 20 validation examples, finalists on 50 test "
        "examples. 3 finalists, trained again on 3 further seeds: 1 on the front by their means, "
        "1 off it within their 95 % intervals, 1 dominated beyond them."
    ) in text
    assert "mean of 3 seeds, with a 95 % interval of 87.0–97.0 by Student's t." in text
    assert not any("Selected by the numbers" in caveat for caveat in caveats(study))
    one = replace(study, rows={"train": 100, "test": 50})
    assert any("Selected by the numbers" in caveat for caveat in caveats(one))


def test_the_picture_has_finalists_by_where_they_stand(finished):
    front = draw_figures(read_study(finished))[0]
    named = {trace.name: list(trace.customdata or ()) for trace in front.figure.data}
    assert named["on the front"] == [1]
    assert named["dominated beyond the intervals"] == [2]
    assert named["anchors"] == [0]
    assert named["as searched, one seed"] == [3]
    bars = next(trace for trace in front.figure.data if trace.name == "on the front").error_y
    assert bars.array[0] == pytest.approx(0.0248, abs=5e-5)
    assert "one seed on the validation split" in front.caption


def test_finalists_may_all_be_anchors(make_run):
    first = complete(0.95, 200.0, anchor="unshared"), complete(0.9, 100.0, HALF, anchor="tied")
    runs = [again(n, plan, seed, 0.9) for n, plan in ((0, None), (1, HALF)) for seed in (1, 2)]
    front = draw_figures(read_study(make_run(*first, *runs)))[0]
    assert {trace.name for trace in front.figure.data} == {"front line", "anchors"}


@pytest.mark.parametrize(
    ("qualities", "middle"),
    [
        ({7: 0.93, 8: 0.92, 9: 0.91}, 8),
        ({7: 0.93, 8: 0.92, 9: 0.91, 10: 0.95}, 8),  # the lower of two
        ({7: 0.9, 8: 0.9, 9: 0.9}, 8),
        ({7: 0.9}, 7),
    ],
)
def test_the_middle_run_is_that_of_middle_quality(qualities, middle):
    assert middle_run(qualities) == middle


def test_the_middle_run_is_offered_where_every_run_s_weights_are_kept_too(make_run):
    runs = [again(0, HALF, seed + 1, score) for seed, score in enumerate((0.94, 0.90, 0.92))]
    run = make_run(complete(0.99, 100.0, HALF), *runs, **SPLITS)
    for number in range(4):
        (run / "trials" / str(number) / "model").mkdir(parents=True)
    (card,) = [card for card in draw_cards(read_study(run)) if card.number == 0]
    assert card.delivery.whose.startswith("Trial 3 is trial 0 on another seed, the middle one")


def test_a_finalist_s_card_offers_the_weights_of_its_middle_run(finished):
    for number in (1, 8):
        (finished / "trials" / str(number) / "model").mkdir(parents=True)
    cards = {card.number: card for card in draw_cards(read_study(finished))}
    assert " 8 demo-8" in cards[1].delivery.export
    assert "Trial 8 is trial 1 on another seed, the middle one" in cards[1].delivery.whose
    assert cards[8].note == "trial 1 again, seed 2"
    numbers = {measure.title: measure.value for measure in cards[8].measures}
    assert numbers["accuracy"] == "82.0\u202f%"  # on the validation split
    assert numbers["accuracy, test split"] == "92.0\u202f%"
    plan = HALF.bound({"layers": StackShape(6, 4, 8)})
    text = model_card(read_study(finished), 8, plan, ExportText("shared", ""))
    assert "Metrics are of the validation split, with" in text
    assert (
        "This is trial 1 trained again on another seed: 92.0 % accuracy on test data.\n"
        "The mean over 3 such seeds is 92.0 %, with a 95 % interval of 89.5–94.5 by Student's t."
    ) in text.replace("\u202f", " ")
    assert cards[1].on_front and not cards[0].on_front
    assert cards[1].sure == (
        "89.5–94.5 over 3 seeds, mean 92.0 (95 % interval by Student's t; trials 7, 8, 9); "
        "one training by its 50 examples: 81.2–96.8"
    )
    assert write_report(finished).read_text().count("dominated by trial 1, beyond") >= 1
