"""Which models are proposed, what is warned of, and what narrows the page: from numbers alone."""

import pandas as pd
import pytest

from sharetune.results.judging.caveats import caveats, last_growth
from sharetune.results.judging.choices import choices, knee
from sharetune.results.judging.cost import hours_text, seconds_of_compute
from sharetune.results.judging.examples import wilson_interval
from sharetune.results.judging.rows import rows_of
from sharetune.results.judging.searched import importances, layer_ranges, searched
from sharetune.results.judging.seeds import spreads
from sharetune.results.judging.summary import summarise
from sharetune.results.page.candidate_pages import draw_cards
from sharetune.results.page.review import kind_of, review
from sharetune.results.reading.study import read_study
from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.objectives import OBJECTIVES
from tests.results.conftest import complete

HALF = SharingPlan.range(1, 4, 0.5)
TESTED = {"per_class": {"no": {"support": 40}, "yes": {"support": 60}}}


def latency(ratio: float, median: float = 10.0) -> dict:
    form = {"median_ms": median, "low_ms": median, "high_ms": median}
    form |= {"ratio": ratio, "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01}
    return {"forms": {"stored": form}, "unshared_ms": 10.0, "batch_size": 1}


def test_wilson_s_interval_keeps_its_width_at_the_ends():
    # z = 1.96, z^2 / 100 = 0.038416: 0.5 -+ sqrt(0.009604 + 0.000369) / 1.038416 = 0.5 -+ 0.0962
    assert wilson_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=5e-5)
    # 10 / (10 + z^2)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=5e-5)


def test_candidates_that_differ_in_their_seed_are_one_with_a_spread(make_run):
    plans = [Candidate(plan=HALF, recipe=Recipe(seed=seed)).written() for seed in (0, 1, 2)]
    trials = [
        complete(a, 1.0) | {"candidate": p} for a, p in zip((0.8, 0.9, 0.7), plans, strict=True)
    ]
    frame = read_study(make_run(*trials, complete(0.5, 1.0))).frame
    found = spreads(frame, OBJECTIVES["accuracy"])
    assert set(found) == {0, 1, 2}
    assert found[1].numbers == (0, 1, 2)
    # Student's t with 2 degrees of freedom is 4.3027: 0.8 -+ 4.3027 x 0.1 / sqrt(3), cut at 1
    assert (found[1].mean, found[1].low) == pytest.approx((0.8, 0.5516), abs=5e-5)
    assert found[1].high == 1.0


def test_choices_name_each_model_once_with_all_its_rules(make_run):
    run = make_run(
        complete(0.900, 200.0, anchor="unshared", **TESTED),
        complete(0.896, 150.0, HALF, **TESTED),
        complete(0.885, 100.0, HALF, **TESTED),
        complete(0.600, 90.0, HALF, **TESTED),
        latency={0: latency(1.0), 1: latency(0.5, 5.0), 2: latency(0.4, 4.0)},
    )
    found = [(choice.number, choice.rule) for choice in choices(read_study(run))]
    assert found == [
        (1, "smallest within 0.5 and 1 point; fastest within 1 point"),
        (2, "smallest within 2 points; knee of accuracy against parameters"),
    ]
    # Wilson, 90 of 100, the nearest: (0.9 + 0.0192) / 1.0384 -+ sqrt(0.00346 + 0.00037) / 1.0384
    assert choices(read_study(run))[0].sure == "82.6–94.5"


def test_the_knee_is_the_point_farthest_from_the_ends_line(make_run):
    accuracy, parameters = OBJECTIVES["accuracy"], OBJECTIVES["parameters"]
    corners = [(0.5, 10.0), (0.8, 20.0), (0.85, 60.0), (0.9, 110.0)]
    frame = read_study(make_run(*(complete(a, p) for a, p in corners))).frame
    # scaled: (0, 0), (.1, .75), (.5, .875), (1, 1): .65, .375 above the diagonal
    assert knee(frame, accuracy, parameters).number == 1
    line = read_study(make_run(*(complete(i / 10, i) for i in (1, 2, 3)), folder="line")).frame
    assert knee(line, accuracy, parameters) is None


def test_each_caveat_is_raised_by_its_numbers(make_run):
    run = make_run(
        complete(0.90, 200.0, anchor="unshared", **TESTED),
        complete(0.89, 150.0, SharingPlan.drop([4]), anchor="drop-1"),
        complete(0.88, 149.0, HALF),
        complete(0.87, 140.0, SharingPlan.range(0, 5, 0.5)),
        latency={2: latency(1.01), 3: latency(0.98)},
    )
    noise, seeds, time, few, drops = caveats(read_study(run))
    assert noise.startswith("Few test examples: accuracies closer than about 6.0 points")
    assert seeds.startswith("Too few seeds: 4 of 4 models on the front are of one seed only")
    assert time.startswith("Latency does not differ between sharing plans: all 2 measured")
    assert few.startswith("Too few trials to say whether the front has converged: 4 trained")
    assert drops.startswith("Sharing loses to plain layer drop, at most 1\u202f% larger (drop-1 by")


def test_a_drifting_clock_is_warned_of(make_run):
    run = make_run(complete(0.9, 1.0), complete(0.8, 2.0), latency={
        0: latency(1.0) | {"drift": 0.01}, 1: latency(1.0) | {"drift": -0.08},
    })  # fmt: skip
    warned = [text for text in caveats(read_study(run)) if "clock" in text]
    assert len(warned) == 1 and "changed by −8.0\u202f% beside trial 1 (1 of 2" in warned[0]


def test_exports_are_shown_as_timed_in_their_runtimes(make_run):
    one = {"median_ms": 5.0, "low_ms": 4.5, "high_ms": 5.5}
    one |= {"ratio": 0.5, "ratio_low": 0.48, "ratio_high": 0.53, "unshared_ms": 10.0}
    uses = {"prefill": one | {"median_ms": 40.0}, "decode": one}
    runtimes = {"runtimes": {"onnx": {"pass": one}, "gguf-q8_0": uses}}
    refused = {"refused": {"albert": "layers are unequal"}}
    run = make_run(complete(0.9, 1.0), latency={0: latency(1.0) | runtimes | refused})
    (card,) = draw_cards(read_study(run))
    shown = {m.title: m for m in card.measures}
    decode = shown["latency, gguf-q8_0, decode"]
    assert (decode.value, decode.ratio) == ("5\u202fms", "0.50×")
    assert (decode.interval, decode.ratio_interval) == ("4.50–5.50", "0.48–0.53")
    assert shown["latency, gguf-q8_0, prefill"].value == "40\u202fms"
    assert shown["latency, onnx"].value == "5\u202fms"
    assert shown["latency, albert"].value == "not exported: layers are unequal"


def test_the_loss_by_number_format_is_against_the_same_training(make_run):
    found = {"as trained": {"accuracy": 0.9}, "int8": {"accuracy": 0.9}, "int4": {"accuracy": 0.72}}
    run = make_run(complete(0.9, 1.0, by_format=found), complete(0.8, 2.0))
    shown = {m.title.split(" (")[0]: m for m in draw_cards(read_study(run))[0].measures}
    assert shown["accuracy, int8"].difference == "0"
    assert shown["accuracy, int4"].difference == "\N{MINUS SIGN}18.0\u202fpoints"
    assert shown["accuracy, int4"].ratio == "0.80×"


def test_throughput_is_shown_against_the_unshared_model(make_run):
    form = latency(0.5, 100.0)["forms"]["stored"]
    batch = {"forms": {"stored": form}, "unshared_ms": 200.0, "batch_size": 32}
    run = make_run(complete(0.9, 1.0), latency={0: latency(1.0) | {"throughput": batch}})
    (card,) = draw_cards(read_study(run))
    measure = next(m for m in card.measures if m.title == "throughput, batch 32")
    # 32 examples in 100 ms; half the time is twice the throughput
    assert (measure.value, measure.ratio) == ("320/s", "2.00×")


def test_tokens_a_second_of_a_model_that_writes(make_run):
    written = latency(0.8, 50.0) | {"use": "generation of 16 tokens", "written_tokens": 16}
    run = make_run(complete(0.9, 1.0), latency={0: written})
    (card,) = draw_cards(read_study(run))
    measure = next(m for m in card.measures if m.title == "tokens written with a cache")
    assert (measure.value, measure.ratio) == ("320/s", "1.25×")


@pytest.mark.slow
def test_no_caveat_without_its_cause(make_run):
    many = {"per_class": {"no": {"support": 40_000}, "yes": {"support": 60_000}}}
    seeds = [Candidate(plan=HALF, recipe=Recipe(seed=seed)).written() for seed in range(20)]
    trials = [complete(0.9, 100.0, **many) | {"candidate": seed} for seed in seeds]
    unshared = complete(0.8, 200.0, anchor="unshared", **many)
    run = make_run(unshared, *trials, latency={2: latency(0.8), 3: latency(1.0)})
    assert caveats(read_study(run)) == []


def test_growth_is_over_the_last_quarter():
    history = pd.DataFrame({"hypervolume": [0.1, 0.2, 0.4, 0.5]})
    assert last_growth(history) == pytest.approx(0.25)


@pytest.mark.slow
def test_the_cost_counts_threads_of_processors_and_no_repeats(make_run):
    device = {"circumstances": {"device": "x86_64", "threads": 2}}
    run = make_run(complete(0.9, 1.0, **device), complete(0.9, 1.0, same_as=0, **device))
    study = read_study(run)
    assert seconds_of_compute(study).tolist() == [11.0, 0.0]  # 5.5 s on 2 threads
    assert hours_text(study, 7200.0) == "2.00 CPU-hours"
    gpu = {"circumstances": {"device": "NVIDIA H200"}}
    study = read_study(make_run(complete(0.9, 1.0, **gpu), folder="gpu"))
    assert seconds_of_compute(study).tolist() == [5.5]
    assert hours_text(study, 36000.0) == "10.0 GPU-hours"


def test_what_was_searched_is_read_off_the_candidates(make_run):
    run = make_run(
        complete(0.9, 1.0, anchor="unshared"), complete(0.8, 1.0, HALF), complete(0.7, 1.0)
    )
    frame = read_study(run).frame
    table = searched(frame)
    assert table.loc[1].to_dict() == {
        "form": "bank", "parts": "attention+ffn", "layers": 4, "first layer": 1,
        "last layer": 4, "banks": 1, "init": "mean", "units": "importance",
    }  # fmt: skip
    assert layer_ranges(frame).to_dict("index") == {1: {"first": 1, "last": 4}}


@pytest.mark.slow
def test_importance_finds_what_moved_the_objective(make_run):
    def trial(number: int):
        plan = SharingPlan.range(0, 1 + number % 5, 0.5)
        recipe = Recipe(learning_rate=1e-5 * (1 + number // 5))
        candidate = Candidate(plan=plan, recipe=recipe).written()
        return complete(0.5 + number % 5 / 20, 100.0 + number // 5) | {"candidate": candidate}

    study = read_study(make_run(*map(trial, range(25))))
    found = importances(study.frame, study.objectives)
    layers = found["accuracy"]["layers"] + found["accuracy"]["last layer"]
    assert layers > 0.9 and found["parameters"]["learning rate"] > 0.9
    assert importances(study.frame.head(19), study.objectives) == {}


def test_the_page_s_data_names_kinds_limits_and_the_first_trial(make_run):
    run = make_run(
        complete(0.900, 200.0, anchor="unshared"),
        complete(0.896, 150.0, HALF),
        complete(0.896, 150.0, HALF, same_as=1),
        complete(0.800, 160.0),
    )
    study = read_study(run)
    data = review(study)
    assert [trial["kind"] for trial in data["trials"]] == ["front", "front", "repeat", "dominated"]
    assert data["front"] == [1, 0] and data["first"] == 1
    assert [limit["name"] for limit in data["limits"]] == ["accuracy", "parameters"]
    assert [stop[0] for stop in data["limits"][0]["stops"]] == [0.8, 0.896, 0.9]
    assert [stop[0] for stop in data["limits"][1]["stops"]] == [200.0, 160.0, 150.0]
    assert kind_of(rows_of(study.frame)[0], []) == "anchor"


def test_a_study_by_perplexity_is_read_as_one(make_run):
    """Lower is better, it is no percentage, and near is within one percent of it."""

    def trial(perplexity, parameters, plan=None, **attributes):
        metrics = {"perplexity": perplexity, "eval_loss": 3.8}
        made = complete(perplexity, parameters, plan, metrics=metrics, **attributes)
        return made | {"values": [perplexity, parameters]}

    run = make_run(
        trial(40.0, 200.0, anchor="unshared"),
        trial(40.3, 150.0, HALF),
        trial(42.0, 149.0, SharingPlan.drop([4]), anchor="drop-1"),
        trial(40.7, 140.0, SharingPlan.range(0, 5, 0.5)),
        trial(90.0, 100.0, SharingPlan.range(0, 5, 0.9)),
        objectives=["perplexity", "parameters"],
        directions=["minimize", "minimize"],
        reference={"perplexity": 1000.0, "parameters": 220.0},
    )
    study = read_study(run)
    found = [(choice.number, choice.rule.replace("\u202f", " ")) for choice in choices(study)]
    assert found == [
        (0, "smallest within 0.5 %"),
        (1, "smallest within 1 %"),
        (3, "smallest within 2 %; knee of perplexity against parameters"),
    ]
    text = " ".join(summarise(study)).replace("\u202f", " ")
    assert "The unshared model reaches 40 perplexity with 200 parameters." in text
    assert "The smallest model within 1 % of it is trial 1" in text
    assert "sharing beats plain layer drop at 1 of 1 size (drop-1: −1.7 by trial 1)" in text
    # 910 of 999 times 120 of 220, and thin strips of better and larger models: 0.497 + 0.018
    assert "The front covers 0.515 of the box" in text
    card = next(card for card in draw_cards(study) if card.number == 3)
    measures = {m.title: (m.value, m.difference) for m in card.measures}
    assert measures["perplexity"] == ("40.7", "+0.7")
    assert [m.title for m in card.headline] == ["perplexity", "parameters"]


@pytest.mark.parametrize(
    ("unshared", "drop", "view"),
    [(0.90, 0.85, 0.10), (0.90, 0.70, 0.264), (0.60, None, 0.384)],  # 1.2 times what lies between
)
def test_plots_reach_down_to_the_models_that_others_are_compared_with(
    make_run, unshared, drop, view
):
    trials = [complete(unshared, 200.0, anchor="unshared"), complete(0.10, 50.0, anchor="tied")]
    trials += [complete(drop, 120.0, anchor="drop-half")] if drop else []
    best = complete(0.92, 100.0, SharingPlan.range(1, 4, 0.5))
    found = review(read_study(make_run(*trials, best)))["quality"]
    assert found == {"name": "accuracy", "maximize": True, "view": pytest.approx(view)}
