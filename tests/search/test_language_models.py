"""A search of a language model, from `init` to a front with intervals."""

import json
import random

import pytest
from typer.testing import CliRunner

from sharetune import results
from sharetune.results.terminal import front_table
from sharetune.search.commands.cli import app
from tests.families import FAMILIES

QUICK = ["executor=local", "budget.trials=4", "space.recipe.steps=20", "latency.rounds=0"]


def call(*words):
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.slow
def test_a_front_of_language_models_has_intervals(tmp_path):
    model, data, study, run = (tmp_path / n for n in ("model", "train.csv", "study.yaml", "run"))
    model.mkdir()
    (model / "config.json").write_text(FAMILIES["llama"][1].to_json_string(use_diff=False))
    draw = random.Random(0)
    words = ["red", "green", "blue", "one", "two", "three", "fish", "bird"]
    rows = [" ".join(draw.choices(words, k=12)) for _ in range(400)]
    data.write_text("\n".join(["text", *rows]) + "\n")
    given = ("--task", "text-generation", "--model", model, "--data", data)
    call("init", *given, "--out", study)
    call("search", study, "--out", run, *(w for change in QUICK for w in ("--set", change)))
    lines = front_table(run).splitlines()
    assert "95 % interval" in lines[0] and len(lines) > 1
    assert all("–" in line for line in lines[1:])
    (document,) = json.loads(call("report", run, "--json"))["studies"]
    for choice in document["choices"]:
        interval = choice["interval"]
        assert interval["over"] == "parts" and interval["count"] > 20
        assert interval["low"] < choice["perplexity"] < interval["high"]
    assert all(results.load(run).query("state == 'COMPLETE'")["part_sums"].map(bool))
