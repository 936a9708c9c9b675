"""What the README and the examples say is true."""

import json
import os
import re
import subprocess
import sys
import urllib.request

import pytest
import yaml
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from sharetune.search.commands.cli import app
from sharetune.search.study_file import load_config, validate
from sharetune.spaces import SharingPlan
from tests.checkpoint import write_checkpoint, write_rows, write_study_data
from tests.paths import ROOT

STUDY = {
    "name": "readme",
    "model": "model",
    "task": {"name": "text-classification", "train": "train.csv", "test": "test.csv"},
    "executor": "local",
    "anchors": ["unshared"],
    "plans": ["albert-all"],
    "budget": {"trials": 2},
    "latency": {"rounds": 1},
    "space": {"plan": [{"layers": "0..-1"}], "recipe": {"max_length": 8}},
}
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def test_the_study_is_a_study():
    (study,) = [text for text in blocks("yaml") if "space:" in text]
    assert validate(yaml.safe_load(study) | {"name": "readme"}, "README").budget.trials == 40


def test_the_plan_is_a_plan():
    (plan,) = [text for text in blocks("yaml") if text.startswith("groups:")]
    assert str(SharingPlan.from_yaml(plan)) == "1..4 bank 0.7 attention+ffn from mean"


def test_the_python_lines_run(tmp_path, monkeypatch):
    code = blocks("python")[0]
    assert code.startswith("from sharetune import ")
    assert code.count("bert-base-uncased") == 1
    write_checkpoint(tmp_path / "local", layers=8)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace("bert-base-uncased", "local"), names)
    plan = "layers 2..7 bank 0.7 attention+ffn from mean"
    assert str(names["model"].sharing.plan) == plan
    written = json.loads((tmp_path / "smaller/config.json").read_text())
    assert (written["model_type"], written["base"]["num_hidden_layers"]) == ("sharetune", 8)


@pytest.mark.slow
def test_a_live_model_a_frame_and_a_metric_take_twelve_lines(tmp_path, monkeypatch):
    """As it stands in the README, on a small model, with few short trainings in this process."""
    code = blocks("python")[1]
    assert len([line for line in code.split("\n") if line]) <= 12
    write_checkpoint(tmp_path / "local")
    write_rows(tmp_path / "reviews.csv", 60)
    monkeypatch.chdir(tmp_path)
    small = "budget=3, executor='local', latency={'rounds': 0}, space={'recipe': {'steps': 1}}"
    names = {}
    exec(code.replace("bert-base-uncased", "local").replace("budget=24", small), names)
    assert names["run"].study.quality.name == "f2"
    exported = AutoModelForSequenceClassification.from_pretrained("smallest-within-a-point")
    assert exported.num_parameters() < names["model"].num_parameters()


def test_make_knows_the_commands():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for command in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.M):
        assert command in targets


def usage() -> dict[str, tuple[list[str], list[str]]]:
    """By command, the words that must be given and the optional ones, as the README has them."""
    (lines,) = re.findall(r"```text\n(sharetune search.*?)```", README, re.S)
    found = {}
    for line in lines.strip().split("\n"):
        words = line.split("#")[0]
        _, command, *required = re.sub(r"\[.*?\]", "", words).split()
        found[command] = required, re.findall(r"\[(.*?)\]", words)
    return found


USAGE = usage()
OPTIONS = [(command, option) for command, (_, options) in USAGE.items() for option in options]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_the_options_exist(command, option):
    help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    for name in re.findall(r"--\w+", option):
        assert re.search(rf"{name}\b", help_text)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Small data and settings by the placeholder of the README that they replace."""
    home = write_study_data(tmp_path_factory.mktemp("readme"), 40)
    (home / "study.yaml").write_text(yaml.safe_dump(STUDY))
    (home / "plan.yaml").write_text("groups: [{layers: 1..2, form: {bank: {ratio: 0.7}}}]")
    return {
        "space.recipe.steps=200": "space.recipe.steps=3",
        "STUDY.yaml": home / "study.yaml",
        "PLAN.yaml": home / "plan.yaml",
        "RUN": home / "run",
        "80%": "90%",
        "50M": "150K",
        "RUN...": home / "run",
        "M": home / "model",
        "D": home / "train.csv",
        "T": "text-classification",
        "TRIAL": "1",
        "OUT": home / "out",
    }


def typed(small, command: str, *options: str) -> list[str]:
    """A command of the README with those of its optional words that begin with `options`."""
    required, optional = USAGE[command]
    chosen = [text for name in options for text in optional if text.startswith(name)]
    assert len(chosen) == len(options), (options, optional)
    words = [word for text in (*required, *chosen) for word in text.split()]
    return [command, *(str(small.get(word, word)) for word in words)]


def call(words: list[str]) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def searched(small):
    """The README's first command, run."""
    return call(typed(small, "search", "--set", "--out"))


def test_every_command_of_the_readme_is_run_here():
    known = {"search", "init", "score", "solve", "report", "serve", "show", "export", "list"}
    assert set(USAGE) == known


@pytest.mark.slow
def test_search_continues(small, searched):
    assert "plan-0" in searched
    assert call(typed(small, "search", "--set", "--out", "--resume")) == searched


@pytest.mark.slow
def test_report(small, searched):
    assert call(typed(small, "report")) == searched
    (study,) = json.loads(call(typed(small, "report", "--json")))["studies"]
    assert study["trials"][0]["recipe.steps"] == 3


@pytest.mark.slow
def test_serve(small, searched):
    command = [sys.executable, "-m", "sharetune", *typed(small, "serve"), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            with urllib.request.urlopen(server.stdout.readline().strip(), timeout=60) as page:
                assert b"<title>readme" in page.read()
        finally:
            server.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["shared", "dense", "albert", "onnx"])
def test_export(small, searched, form, tmp_path):
    assert "--format shared|code|dense|albert|onnx|gguf" in USAGE["export"][1]
    words = typed(small | {"OUT": tmp_path / "out"}, "export")
    assert call([*words, "--format", form]).startswith(("from ", "import "))


@pytest.mark.slow
def test_the_study_runs(tmp_path):
    """As it stands in the README, on a small model."""
    (text,) = [text for text in blocks("yaml") if "space:" in text]
    write_study_data(tmp_path, 40)
    write_checkpoint(tmp_path / "model", layers=8)
    (tmp_path / "study.yaml").write_text(text.replace("bert-base-uncased", "model"))
    small = ("executor=local", "budget.trials=6", "latency.rounds=0", "space.recipe.max_length=8")
    settings = [word for setting in small for word in ("--set", setting)]
    call(["search", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "run"), *settings])


@pytest.mark.slow
def test_score_and_solve(small, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(small["STUDY.yaml"].read_text("utf-8"))
    changed = STUDY | {name: str(small["M"].parent / STUDY[name]) for name in ("model",)}
    files = {key: str(small["M"].parent / STUDY["task"][key]) for key in ("train", "test")}
    study.write_text(yaml.safe_dump(changed | {"task": STUDY["task"] | files}))
    small = small | {"RUN": tmp_path / "run", "STUDY.yaml": study}
    assert "edits scored" in call(typed(small, "score", "--set", "--out"))
    options = ("--bytes", "--count", "--measure", "--into")
    assert "measured" in call(typed(small, "solve", *options))
    assert len(load_config(study).plans) == 3  # albert-all and two


def test_init(small, tmp_path):
    words = typed(small | {"STUDY.yaml": tmp_path / "written.yaml"}, "init", "--hours", "--out")
    assert call(words) == (tmp_path / "written.yaml").read_text("utf-8")


def test_show(small):
    assert "0.7" in call([*typed(small, "show"), "--max-length", "8"])


def test_list(small):
    (kinds,) = USAGE["list"][1]
    for kind in kinds.removesuffix("|...").split("|"):
        assert call(["list", kind])


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "study",
    sorted(ROOT.glob("examples/*/study*.yaml")),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_examples_are_studies(study):
    assert load_config(study).space.plan
