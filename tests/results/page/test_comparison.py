import pytest

from sharetune.results.page.comparison import (
    common_reference,
    comparison_table,
    contenders,
    draw_overlays,
    matches,
    read_studies,
    write_comparison,
)
from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import RunError
from tests.results.conftest import complete

HALF = SharingPlan.range(1, 4, 0.5)


@pytest.fixture
def runs(make_run):
    return [
        make_run(complete(0.9, 100.0), complete(0.8, 50.0, HALF), folder="one", name="one"),
        make_run(
            complete(0.95, 100.0),
            folder="two",
            name="two",
            reference={"accuracy": 0.0, "parameters": 200.0},
        ),
    ]


def test_hypervolumes_are_told_against_the_worst_reference(runs):
    studies = read_studies(runs)
    assert common_reference(studies) == {"accuracy": 0.0, "parameters": 200.0}
    one, two = contenders(studies)
    # box 1 x 200: 0.9 x 100/200 + 0.8 x 50/200 = 0.65, and 0.95 x 100/200 = 0.475
    assert (one.hypervolume, two.hypervolume) == pytest.approx((0.65, 0.475))
    assert (one.gain, two.gain) == pytest.approx((0.0, -0.175))
    assert comparison_table(runs).split("\n")[1].startswith("two: hypervolume 0.4750 (-0.1750)")


@pytest.mark.parametrize("damage", [b"", b"no storage", b"SQLite format 3\0" + b"\0" * 4000])
def test_a_run_that_cannot_be_read_is_one_error(runs, damage):
    (runs[1] / "study.db").write_bytes(damage)
    for compare in (write_comparison, comparison_table):
        with pytest.raises(RunError) as caught:
            compare(runs)
        assert caught.value.hint
    assert not (runs[0] / "comparison.html").exists()


def test_what_a_run_holds_that_no_page_can_show_is_one_error(make_run):
    odd = [
        make_run(
            complete(0.9, 1.0, confusion={"cells": 3}, per_class=[1]), folder=folder, model=[7]
        )
        for folder in ("one", "two")
    ]
    try:
        write_comparison(odd)
    except RunError as error:
        assert error.hint


def test_the_page_names_no_hosts_and_no_absolute_paths_unless_asked(make_run):
    where = {"host": "secret-host"}
    config = {"name": "demo", "storage": "postgresql://me@db.example:5432/x"}
    runs = [
        make_run(complete(0.9, 1.0, circumstances=where), folder=folder, config=config)
        for folder in ("one", "two")
    ]
    page = write_comparison(runs).read_text("utf-8")
    assert str(runs[0].parent) not in page and "secret-host" not in page
    assert "demo (one)" in page and "<small>two</small>" in page
    assert str(runs[0]) in write_comparison(runs, private=True).read_text("utf-8")


def test_equal_candidates_are_matched(runs):
    (match,) = matches(read_studies(runs))
    assert (match.first, match.other, match.study) == (0, 0, "two")
    assert match.change.replace("\u202f", " ") == "+5.0 points"


def test_fronts_are_overlaid_and_the_page_is_written(runs):
    (drawing,) = draw_overlays(read_studies(runs))
    lines = [trace for trace in drawing.figure.data if trace.name]
    assert [(trace.name, trace.x) for trace in lines] == [("one", (50.0, 100.0)), ("two", (100.0,))]
    path = write_comparison(runs)
    assert path == runs[0] / "comparison.html"
    assert "two" in path.read_text("utf-8")


def test_studies_of_one_name_go_by_their_folders(make_run):
    same = [make_run(complete(0.9, 1.0), folder=folder) for folder in ("a", "b")]
    assert [c.name for c in contenders(read_studies(same))] == ["demo (a)", "demo (b)"]


def test_other_objectives_cannot_be_compared(runs, make_run):
    other = make_run(complete(0.9, 1.0), folder="other", objectives=["accuracy", "flops"])
    with pytest.raises(RunError) as caught:
        read_studies([runs[0], other])
    assert "must have the same objectives" in caught.value.message


SAME = {"checkpoint": "m", "trained on": "d", "measured on": "t"}
TASK = {"name": "text-classification", "train": "/here/train.csv", "test": "/here/test.csv"}


def compared(make_run, one, two):
    """Compare two runs of these attributes."""
    common = {"config": {"task": TASK}, "model": {"name": "a/bert"}, "rows": {"train": 9}}
    return read_studies(
        [make_run(folder=name, **common | own) for name, own in (("a", one), ("b", two))]
    )


@pytest.mark.parametrize(
    ("own", "what"),
    [
        ({"config": {"task": TASK | {"name": "translation"}}}, "the same task, but .* translation"),
        ({"model": {"name": "a/gpt2"}}, "the same model, but .* has bert and .* has gpt2"),
        ({"config": {"task": TASK | {"test": "/here/other.csv"}}}, "the same data, but "),
        ({"rows": {"train": 8}}, "the same data, but .* 9 train and .* 8 train"),
        (
            {"identity": SAME | {"checkpoint": "n"}},
            r"the same model, but .* bert \(m\) .* bert \(n\)",
        ),
        ({"identity": SAME | {"measured on": "u"}}, r"the same data, but .*\(d t\) .*\(d u\)"),
    ],
)
def test_runs_of_another_task_model_or_data_cannot_be_compared(make_run, own, what):
    first = {"identity": SAME} if "identity" in own else {}
    with pytest.raises(RunError, match=f"compared studies must have {what}"):
        compared(make_run, first, own)


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"model": {"name": "there/bert"}},
        {"config": {"task": {key: value.replace("here", "b") for key, value in TASK.items()}}},
        {"config": {}},
        {"identity": SAME},
    ],
)
def test_the_same_data_in_another_place_are_compared(make_run, own):
    assert len(compared(make_run, {}, own)) == 2


def test_a_run_cannot_be_compared_with_itself(runs):
    with pytest.raises(RunError, match="cannot be compared with itself"):
        read_studies([runs[0], runs[1], runs[0] / ".." / runs[0].name])
