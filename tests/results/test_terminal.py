"""The front as the terminal shows it."""

import pytest
from rich.table import Table

from sharetune.results.reading import attributes as record
from sharetune.results.table_text import table_text
from sharetune.results.terminal import (
    EXPORT,
    FURTHER,
    NEAREST,
    SEEDS,
    front_table,
    next_steps,
    warning,
)
from sharetune.spaces import SharingPlan
from sharetune.spaces.run_folder import RunFolder
from tests.results.conftest import complete


def test_a_plan_of_the_study_has_its_name_and_its_words_and_a_drawn_one_its_words(make_run):
    run = make_run(
        complete(0.9, 200, anchor="unshared"),
        complete(0.8, 150, SharingPlan.range(1, 4, 0.7), anchor="plan-0"),
        complete(0.7, 140, SharingPlan.range(1, 4, 1)),
    )
    lines = [" ".join(line.split()) for line in front_table(run).splitlines()]
    assert lines[1].endswith("200 unshared")
    assert lines[2].endswith("150 plan-0: 1..4 bank 0.7 attention+ffn from mean")
    assert lines[3].endswith("140 1..4 tie attention+ffn from mean")


@pytest.mark.parametrize(
    ("confusion", "told"),
    [
        ([[0, 3], [0, 5]], True),
        ([[1, 2], [0, 5]], False),
        ([[0, 0], [0, 5]], False),  # the test split has one class
        ({"classes": 40, "cells": [[0, 1, 3], [7, 1, 5]]}, True),
        ({"classes": 40, "cells": [[0, 1, 3], [7, 2, 5]]}, False),
        (None, False),
    ],
)
def test_a_model_that_gives_one_answer_to_everything_is_warned_of(make_run, confusion, told):
    run = make_run(complete(0.6, 200, anchor="unshared", **{record.CONFUSION: confusion}))
    text = warning(run)
    assert (text is not None) == told
    if text is not None:
        assert text.startswith("warning: Nothing was learned: the unshared model answers every")
        assert "'yes'" in text and text.endswith("larger learning rate.")


def test_a_table_is_plain_text_in_a_notebook(monkeypatch, capsys):
    """Where rich finds a kernel it would show the table at once, with colours."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    table = Table("trial", "plan", box=None, pad_edge=False)
    table.add_row("1", "tied")
    assert table_text(table, 80) == "trial  plan\n1      tied"
    assert capsys.readouterr().out == ""


def keep_weights(run, trials):
    for number in range(trials):
        RunFolder(run).trial(number).model.mkdir(parents=True)


@pytest.mark.parametrize(
    ("accuracies", "what", "number"),
    [
        ((0.9, 0.895, 0.7), EXPORT, 1),  # within a point
        ((0.9, 0.8, 0.85), NEAREST, 2),  # the best of the others
    ],
)
def test_the_command_exports_a_model_that_is_smaller(make_run, accuracies, what, number):
    unshared, one, other = accuracies
    run = make_run(
        complete(unshared, 200, anchor="unshared"),
        complete(one, 150, SharingPlan.range(1, 4, 0.7)),
        complete(other, 160, SharingPlan.range(1, 4, 0.5)),
    )
    keep_weights(run, 3)
    first, *_ = next_steps(run, " ".join).items()
    assert first == (what, f"sharetune export {run} {number} demo-{number}")


def test_where_hours_were_limited_what_follows_has_more(make_run):
    run = make_run(complete(0.9, 200), config={"budget": {"trials": 10, "wall_hours": 0.1}})
    steps = next_steps(run, " ".join)
    assert steps[SEEDS] == "finalists.seeds=3 budget.wall_hours=0.2"
    assert steps[FURTHER] == "budget.trials=20 budget.wall_hours=0.2"


def test_a_run_of_the_unshared_model_alone_exports_it(make_run):
    run = make_run(complete(0.9, 200, anchor="unshared"))
    keep_weights(run, 1)
    assert next(iter(next_steps(run, " ".join))) == EXPORT
