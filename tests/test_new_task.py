"""A new task is one file: it is found, listed, checked, searched and reported."""

import sys
import textwrap

import pytest
from typer.testing import CliRunner

from sharetune import results
from sharetune.search.commands.cli import app
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.trainers import tasks
from sharetune.trainers.tasks.base import TASKS
from tests.search.commands.test_cli import study

assert study, "a fixture"

FILE = '''
    """Whether a text is long."""

    from typing import Any, ClassVar

    from transformers import AutoModelForSequenceClassification

    from sharetune.spaces.evaluator import Scores
    from sharetune.spaces.objectives import OBJECTIVES, Objective
    from sharetune.trainers.data.tables import read_table
    from sharetune.trainers.tasks.base import TASKS, DataFacts, Task

    OBJECTIVES.register("misses")(Objective("misses", "misses", "minimize", source="trained"))


    @TASKS.register("length")
    class Length(Task):
        """whether a text has many letters: misses"""

        auto: ClassVar[Any] = AutoModelForSequenceClassification

        @property
        def metrics(self):
            return ("misses",)

        def read(self):
            train, test = self.frames(lambda frame, source: frame)
            return train, test, DataFacts()

        def rows(self, frame, reader, max_length):
            tokens = reader(frame["text"].tolist(), truncation=True, max_length=max_length)
            return {**tokens, "labels": [int(len(text) > 26) for text in frame["text"]]}

        def score(self, predictions, labels, facts):
            wrong = sum(int(row.argmax()) != label for row, label in zip(predictions, labels))
            return Scores({"misses": float(wrong)})
'''


@pytest.fixture()
def one_file(tmp_path, monkeypatch):
    list(TASKS)  # the project's own stay registered
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "length.py").write_text(textwrap.dedent(FILE))
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(folder)])
    monkeypatch.setattr(TASKS, "_is_complete", False)
    for registry in (OBJECTIVES, TASKS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    yield
    sys.modules.pop("sharetune.trainers.tasks.length", None)


def test_a_task_of_one_file_is_searched(one_file, study, tmp_path):
    path = study(
        objectives=["misses", "parameters"],
        task={"name": "length", "train": "train.csv", "test": "test.csv"},
        budget={"trials": 2},
    )
    result = CliRunner().invoke(app, ["search", path, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    frame = results.load(tmp_path / "run")
    assert frame["misses"].between(0, 30).all()
    assert "misses" in (tmp_path / "run" / "report.html").read_text()
    assert "many letters: misses" in CliRunner().invoke(app, ["list", "tasks"]).stdout


def test_an_objective_that_the_task_does_not_measure(one_file, study, tmp_path):
    path = study(task={"name": "length", "train": "train.csv"}, objectives=["bleu", "parameters"])
    result = CliRunner().invoke(app, ["search", path, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "error: the task length does not measure bleu" in result.output
    assert "for example objectives: [misses, parameters, flops]" in result.output
