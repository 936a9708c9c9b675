"""Nothing is recommended where nothing was learned, and curves that still fall are named."""

from math import isnan

import pytest

from sharetune.results.judging.caveats import caveats
from sharetune.results.judging.choices import choices
from sharetune.results.judging.learning import explained, has_learned, last_fall
from sharetune.results.judging.regime import expectation
from sharetune.results.judging.rows import Row
from sharetune.results.judging.summary import summarise, tiles
from sharetune.results.page.report import write_report
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import read_study
from sharetune.spaces import SharingPlan
from sharetune.spaces.objectives import OBJECTIVES
from tests.results.conftest import STUDY, complete

HALF = SharingPlan.range(1, 4, 0.5)
EVEN = {record.PER_CLASS: {"a": {"support": 500}, "b": {"support": 500}}}


def trials(unshared, shared, curve=()):
    return (
        complete(unshared, 100.0, anchor="unshared", **EVEN, curve=list(curve)),
        complete(shared, 60.0, HALF, **EVEN),
    )


def test_nothing_is_recommended_where_nothing_was_learned(make_run):
    study = read_study(make_run(*trials(0.51, 0.52)))
    assert choices(study) == []
    assert any(
        text.startswith("Nothing was learned: no model's accuracy") for text in caveats(study)
    )
    assert not any("smallest" in tile.label for tile in tiles(study))
    assert not any("The smallest model within" in text for text in summarise(study))


def test_an_unshared_model_that_has_learned_nothing_is_no_standard(make_run):
    study = read_study(make_run(*trials(0.51, 0.9)))
    assert any(
        "The unshared model has learned nothing (accuracy 0.51)" in t for t in caveats(study)
    )
    assert not any("within" in choice.rule for choice in choices(study))


def test_a_study_that_has_learned_is_as_before(make_run):
    study = read_study(make_run(*trials(0.9, 0.895)))
    assert choices(study)
    assert not any("learn" in text for text in caveats(study))


@pytest.mark.parametrize(
    ("name", "value", "learned"),
    [
        ("bleu", 0.0, False),
        ("bleu", 0.3, True),
        ("perplexity", 1000.0, False),
        ("perplexity", 999.0, True),
        ("word_error_rate", 1.0, False),
        ("matthews", 0.0, False),
        ("entity_f1", 0.0, False),
    ],
)
def test_by_the_useless_value_of_each_measure(name, value, learned):
    assert has_learned(Row(0, cells={name: value}), OBJECTIVES[name]) is learned


def test_a_loss_that_still_falls_at_the_end_is_named(make_run):
    falling = [[step, 3.0 - 0.02 * step] for step in range(100)]
    study = read_study(make_run(*trials(0.8, 0.79, falling)))
    found = [text for text in caveats(study) if text.startswith("The unshared model was still")]
    assert found and "25% of all that its training loss fell by" in found[0]
    flat = [[step, max(1.0, 3.0 - 0.05 * step)] for step in range(100)]
    study = read_study(make_run(*trials(0.8, 0.79, flat), folder="flat"))
    assert not any(text.startswith("The unshared model was still") for text in caveats(study))


def test_a_loss_that_hardly_fell_is_named_though_the_accuracy_beats_chance(make_run):
    level = [[step, 0.65 if step % 2 else 0.66] for step in range(100)]
    study = read_study(make_run(*trials(0.6, 0.59, level)))
    found = [text for text in caveats(study) if "has hardly learned" in text]
    assert found and "its training loss ended 6% below" in found[0]  # 1 - 0.655 / ln 2


def test_only_a_loss_of_labels_alone_is_held_against_their_entropy():
    curve, classes = [[step, 0.3] for step in range(20)], EVEN[record.PER_CLASS]
    assert explained(Row(0, curve=curve, per_class=classes)) == pytest.approx(0.567191)
    smoothed = {"recipe": {"label_smoothing": 0.1}}
    assert isnan(explained(Row(0, curve=curve, per_class=classes, candidate=smoothed)))
    assert isnan(explained(Row(0, curve=curve)))


def test_a_curve_without_a_fall_says_nothing():
    rising = Row(0, curve=[[step, float(step)] for step in range(20)])
    assert last_fall(rising) != last_fall(rising)  # NaN
    assert last_fall(Row(0, curve=[[0, 2.0], [1, 1.0]])) != last_fall(rising)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pretrained", "words"), [(True, "is pretrained"), (False, "trained from scratch")]
)
def test_the_page_says_what_to_expect(make_run, pretrained, words):
    model = STUDY[record.MODEL] | {"pretrained": pretrained}
    run = make_run(*trials(0.9, 0.89), **{record.MODEL: model})
    assert words in expectation(read_study(run))
    assert "What to expect" in write_report(run).read_text()


def test_an_older_study_expects_nothing(make_run):
    run = make_run(*trials(0.9, 0.89))
    assert expectation(read_study(run)) == ""
    assert "What to expect" not in write_report(run).read_text()
