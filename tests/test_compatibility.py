"""Run folders, a shared model and exports written by commit e71c858 still open."""

import shutil
import sqlite3

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from sharetune import load, load_shared, write_report
from sharetune.results.judging.choices import choices
from sharetune.results.reading.study import read_study
from sharetune.search.commands.cli import app
from tests.paths import ROOT

WRITTEN = ROOT / "tests/data/written-at-e71c858"
THERE = "/written/at/e71c858"
TOKENS = torch.tensor([[2, 5, 9, 13, 3], [2, 17, 4, 7, 3]])
UNTRAINED = [
    [0.8884568214416504, 0.36598068475723267, 0.9712859392166138],
    [0.8851157426834106, 0.3620244264602661, 0.9556781053543091],
]
ALBERT = [
    [0.2956160604953766, 0.8608060479164124, 1.3701146841049194],
    [0.29858556389808655, 0.8597372174263, 1.3682619333267212],
]
DROPPED = [
    [1.780378818511963, 1.7609729766845703, -2.87919545173645],
    [1.7803902626037598, 1.7609875202178955, -2.87921404838562],
]


@pytest.fixture()
def written(tmp_path):
    """A copy of the folder, which lies elsewhere: the stored configurations name its data there."""
    home = shutil.copytree(WRITTEN, tmp_path / "home")
    for run in ("finished", "interrupted"):
        with sqlite3.connect(home / run / "study.db") as database:
            database.execute(
                "UPDATE study_user_attributes SET value_json = replace(value_json, ?, ?)",
                (THERE, str(home)),
            )
    return home


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


def test_the_table_of_a_finished_run_has_the_same_values():
    frame = load(WRITTEN / "finished").set_index("number")
    assert list(frame.index) == list(range(14))
    assert set(frame["state"]) == {"COMPLETE"}
    assert frame["plan"][:6].tolist() == [
        "unshared",
        "layers 0..3 tie attention+ffn from mean",
        "layers 1 drop",
        "layers 1..2 drop",
        "layers 2..3 tie attention+ffn from mean",
        "layers 0..3 bank 0.4 attention+ffn from mean",
    ]
    assert frame["anchor"][:4].tolist() == ["unshared", "tied", "drop-third", "drop-half"]
    assert frame["finalist"][6:].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert frame["accuracy"][:6].tolist() == pytest.approx([2 / 3, 2 / 3, 1, 1, 2 / 3, 2 / 3])
    assert frame["parameters"][:6].tolist() == [9827, 3683, 7603, 5379, 7779, 6755]
    assert frame["flops"][:4].tolist() == [148064, 148064, 111200, 74336]
    assert frame["effective_ratio"][5] == 0.5
    assert frame["compression.magnitude"][5] == 0.5
    assert frame["recipe.learning_rate"][4] == pytest.approx(0.028405, abs=5e-7)
    assert frame["latency_ms"][:4].tolist() == [1.01710, 1.00150, 0.80714, 0.73147]
    assert frame["test"][13]["metrics"]["accuracy"] == pytest.approx(1.0)


def test_a_finished_run_is_judged_as_before():
    study = read_study(WRITTEN / "finished")
    (choice,) = choices(study)
    assert (choice.number, choice.quality, choice.size_ratio) == (3, "83.3\u202f%", "0.55×")
    assert choice.rule == "smallest within 0.5, 1 and 2 points; fastest within 1 point"
    assert choice.sure == "0.0–100.0 over 2 seeds"
    assert study.reference["parameters"] == 10809.7
    assert study.rows == {"train": 45, "validation": 15, "test": 30}


def test_the_report_of_a_finished_run_opens(written):
    page = write_report(written / "finished").read_text("utf-8")
    assert "<title>written-at-e71c858" in page
    assert "layers 0..3 bank 0.4 attention+ffn from mean" in page


@pytest.mark.slow
def test_a_finished_run_continues_to_a_larger_budget(written):
    before = load(written / "finished").set_index("number")
    options = ("--out", written / "finished", "--resume", "--set", "budget.trials=8")
    call("search", written / "study.yaml", *options, "--set", "finalists=null")
    after = load(written / "finished").set_index("number")
    searched = after[after["finalist"].isna() & after["same_as"].isna()]
    assert (searched["state"] == "COMPLETE").sum() == 8
    assert after["eval_loss"][:14].tolist() == before["eval_loss"].tolist()


@pytest.mark.slow
def test_a_killed_run_trains_the_interrupted_trial_again(written):
    run = written / "interrupted"
    assert load(run)["state"].tolist() == ["COMPLETE", "COMPLETE", "COMPLETE", "RUNNING"]
    options = ("--set", "budget.trials=5", "--set", "finalists=null")
    call("search", written / "study.yaml", "--out", run, "--resume", *options)
    after = load(run).set_index("number")
    assert after["reason"][3] == "interrupted"
    complete = after[after["state"] == "COMPLETE"]
    assert complete["same_as"].isna().sum() == 5
    assert complete["anchor"].dropna().tolist() == ["unshared", "tied", "drop-third", "drop-half"]
    assert after["eval_loss"][:3].tolist() == pytest.approx(
        [0.471613, 0.471430, 0.058353], abs=5e-7
    )


def test_a_trial_of_an_old_run_is_exported(written):
    call("export", written / "finished", 9, written / "exported", "--format", "shared")
    assert torch.allclose(logits(load_shared(written / "exported")), torch.tensor(DROPPED))
    assert (written / "exported/tokenizer.json").exists()


def test_a_shared_model_loads_with_the_logits_it_had():
    model = load_shared(WRITTEN / "shared")
    assert str(model.sharing.plan) == (
        "layers 0..2 bank 0.4 attention+ffn from mean; layers 3..4 tie attention+ffn from mean"
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == 7955
    assert torch.allclose(logits(model), torch.tensor(UNTRAINED), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected", "parameters"), [("dense", UNTRAINED, 12051), ("albert", ALBERT, 3427)]
)
def test_an_export_loads_with_the_logits_it_had(name, expected, parameters):
    model = AutoModelForSequenceClassification.from_pretrained(WRITTEN / name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert torch.allclose(logits(model), torch.tensor(expected), atol=1e-6)
