"""A study file that was written for a model and data is one that runs."""

import pytest
import yaml
from typer.testing import CliRunner

from search.cli import app
from search.config import load_config
from tests.checkpoint import write_checkpoint, write_rows
from tests.trainers.tasks.test_tasks import trainee


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_written_study_runs(tmp_path):
    model = write_checkpoint(tmp_path / "model", layers=6)
    data = write_rows(tmp_path / "rows.csv", 60)
    out = tmp_path / "studies" / "first.yaml"
    out.parent.mkdir()
    asked = ("--task", "text-classification", "--model", model, "--data", data, "--out", out)
    made = call("init", *asked)
    assert made.exit_code == 0, made.output
    written = yaml.safe_load(out.read_text())
    assert made.stdout == out.read_text()
    assert written["model"] == "../model"
    assert written["objectives"] == ["accuracy", "parameters", "flops"]
    # layers 0 and 5 of six stay as they are; five words a text make at most 16 tokens
    assert written["plans"] == [{"groups": [{"layers": "1..4", "form": {"bank": {"ratio": 0.7}}}]}]
    assert written["space"]["recipe"]["max_length"] == 16
    assert written["space"]["recipe"]["steps"] == 50
    small = ("--set", "executor=local", "--set", "budget.trials=2", "--set", "latency.rounds=0")
    small += ("--set", "space.recipe.steps=1", "--out", tmp_path / "run")
    result = call("search", out, *small)
    assert result.exit_code == 0, result.output
    assert "exists already" in call("init", *asked).output


def test_a_group_for_each_stack(tmp_path):
    made = trainee(tmp_path, "translation", "t5")
    out = tmp_path / "study.yaml"
    result = call(
        "init", "--task", "translation", "--model", made.model, "--data", made.task.train,
        "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "trained from scratch" in result.stdout
    config = load_config(out)
    # four and three layers
    assert [str(plan.groups[0].stack) for plan in config.plans] == ["encoder", "decoder"]
    assert config.objectives[0] == "bleu"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("translation", "error: no target column|error: .* a translation reads two"),
        ("image-classification", "error: no image column"),
        ("sumarization", "error: unknown task: 'sumarization'"),
    ],
)
def test_data_of_another_task(tmp_path, task, message):
    import re

    model = write_checkpoint(tmp_path / "model")
    data = tmp_path / "rows.csv"
    data.write_text("text,label,more\na,b,c\n")
    result = call(
        "init", "--task", task, "--model", model, "--data", data, "--out", tmp_path / "s.yaml"
    )
    assert result.exit_code == 2
    assert re.search(message, result.output)
    assert "hint: " in result.output
