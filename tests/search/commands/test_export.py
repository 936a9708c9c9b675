"""`sharetune export` on a real run: every format, every mistake, and the trial's accuracy again."""

import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch
import yaml
from transformers import AutoTokenizer
from typer.testing import CliRunner

from sharetune import results
from sharetune.results.reading.study import read_study
from sharetune.search.commands.cli import app
from tests.checkpoint import write_study_data
from tests.paths import ROOT

WHOLE = {"layers": "0..3", "parts": ["attention", "ffn", "norms", "biases"], "assign": {"cycle": 2}}
BANK = {"layers": "0..2", "form": {"bank": {"ratio": 0.5}}}
STUDY = {
    "name": "export",
    "model": "model",
    "task": {"name": "text-classification", "train": "train.csv", "test": "test.csv"},
    "executor": "local",
    "latency": {"rounds": 1},
    "keep": "all",
    "budget": {"trials": 5},
    "anchors": ["unshared", "tied", "drop-half"],
    "plans": [{"groups": [WHOLE]}, {"groups": [WHOLE]}, {"groups": [BANK]}],
    "space": {
        "plan": [{"layers": "0..-1"}],
        "recipe": {"steps": 40, "max_length": 8, "learning_rate": 0.003},
    },
}
pytestmark = pytest.mark.xdist_group("export")  # one run for all of them
DIGITS = ROOT / "examples" / "digits"
UNSHARED, DROPPED, CYCLED, REPEATED, HALF = 0, 2, 3, 4, 5


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run folder of a small search that kept every trial's weights."""
    folder = tmp_path_factory.mktemp("export")
    write_study_data(folder, 60)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    result = call("search", folder / "study.yaml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("shared", "from sharetune import load_shared\nmodel = load_shared({})"),
        (
            "dense",
            "from transformers import BertForSequenceClassification\n"
            "model = BertForSequenceClassification.from_pretrained({})",
        ),
        (
            "albert",
            "from transformers import AlbertForSequenceClassification\n"
            "model = AlbertForSequenceClassification.from_pretrained({})",
        ),
    ],
)
def test_every_format(run, tmp_path, name, load):
    out = tmp_path / "below" / "out"
    result = call("export", run, CYCLED, out, "--format", name)
    assert result.exit_code == 0, result.output
    assert result.stdout == load.format(f'"{out}"') + "\n"
    assert f"wrote {out}, 0.1 MB; loaded again" in result.stderr.replace("0.2 MB", "0.1 MB")
    assert load.format('"out"') in (out / "README.md").read_text()
    loaded = {}
    exec(result.stdout, loaded)
    assert loaded["model"].num_labels == 3
    text = ["salt soup", "moon"]
    tokens = AutoTokenizer.from_pretrained(run.parent / "model")(text)
    assert AutoTokenizer.from_pretrained(out)(text)["input_ids"] == tokens["input_ids"]


@pytest.mark.slow
def test_onnx(run, tmp_path):
    result = call("export", run, HALF, tmp_path / "out", "--format", "onnx")
    assert result.exit_code == 0, result.output
    loaded = {}
    exec(result.stdout, loaded)
    assert [node.name for node in loaded["model"].get_outputs()] == ["logits"]


COUNT_PICTURES = """
import sys
from pathlib import Path
import torch
from PIL import Image
from transformers import AutoImageProcessor
folder, data = map(Path, sys.argv[1:])
read = AutoImageProcessor.from_pretrained(folder)
paths = sorted(data.glob("*/*.png"))
pictures = [Image.open(path).convert("RGB") for path in paths]
pixels = read(pictures, return_tensors="pt")["pixel_values"]
if hasattr(model, "run"):
    logits = torch.from_numpy(model.run(["logits"], {"pixel_values": pixels.numpy()})[0])
    names = [str(digit) for digit in range(10)]
else:
    with torch.no_grad():
        logits = model.eval()(pixel_values=pixels).logits
    names = [model.config.id2label[i] for i in range(10)]
found = logits.argmax(-1).tolist()
print(sum(names[i] == path.parent.name for i, path in zip(found, paths, strict=True)), len(paths))
"""


def sh(folder, *words):
    """Runs a command in `folder` as a user would; returns what it printed."""
    done = subprocess.run([str(w) for w in words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_fresh_process_with_the_printed_lines_alone_has_the_trial_s_accuracy(tmp_path):
    """Of a real study: no run folder, no task and no cache, but the exported folder and pictures.

    450 pictures, so that one that is told otherwise would move the accuracy by 0.002.
    """
    for name in ("prepare.py", "study.yaml", "vit"):
        copy = shutil.copytree if name == "vit" else shutil.copy
        copy(DIGITS / name, tmp_path / name)
    sh(tmp_path, sys.executable, "prepare.py")
    command = [sys.executable, "-m", "sharetune.search.commands.cli"]
    settings = ["executor=local", "anchors=[unshared]", "budget.trials=2", "latency.rounds=0"]
    settings += ["space.recipe.steps=150", "space.recipe.learning_rate=0.003"]
    given = [word for setting in settings for word in ("--set", setting)]
    sh(tmp_path, *command, "search", "study.yaml", "--out", "run", *given)
    accuracies = results.load(tmp_path / "run").set_index("number")["accuracy"]
    assert 0.5 < accuracies[1] < 1.0
    for name in ("shared", "dense", "onnx"):
        load = sh(tmp_path, *command, "export", "run", 1, name, "--format", name)
        code = load + COUNT_PICTURES
        right, of = map(int, sh(tmp_path, sys.executable, "-c", code, name, "data/test").split())
        assert of == 450
        assert float(torch.tensor(right) / of) == accuracies[1], name


REPRODUCE = """
import json, sys
from pathlib import Path
from sharetune.trainers.tasks.base import DataFacts, read_task
from sharetune.trainers.tasks.prediction import predict
config, labels, cache, *loads = map(json.loads, sys.argv[1:])
task = read_task(config["task"])
_, test = task.splits(config["model"], Path(cache), 8)
for load in loads:
    exec(load)
    logits = predict(model, data=test.rows, collate=test.collate)
    print(json.dumps(task.score(logits, test.labels, DataFacts(tuple(labels))).metrics))
"""


@pytest.mark.slow
def test_the_printed_lines_reproduce_the_accuracy(run, tmp_path):
    trials = [UNSHARED, DROPPED, CYCLED, HALF]
    loads = [call("export", run, trial, tmp_path / f"{trial}").stdout for trial in trials]
    study = read_study(run)
    given = [study.config, study.model["labels"], str(run / "cache"), *loads]
    command = [sys.executable, "-c", REPRODUCE, *map(json.dumps, given)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.split("\n") if line.startswith("{")]
    expected = study.frame.set_index("number").loc[trials]
    assert [metrics["accuracy"] for metrics in found] == expected["accuracy"].tolist()
    assert [metrics["macro_f1"] for metrics in found] == expected["macro_f1"].tolist()
    losses = expected["eval_loss"].tolist()
    assert [metrics["eval_loss"] for metrics in found] == pytest.approx(losses, abs=1e-6)
    assert len({round(loss, 5) for loss in losses}) == 4


@pytest.mark.slow
def test_the_search_learned_something(run):
    """Else an accuracy that is reproduced says nothing."""
    assert results.load(run)["accuracy"].max() > 0.5


@pytest.mark.slow
def test_the_model_card(run, tmp_path):
    assert call("export", run, HALF, tmp_path / "out").exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    meta = yaml.safe_load(card.split("---")[1])
    (results,) = meta.pop("model-index")[0]["results"]
    assert {one["type"] for one in results["metrics"]} >= {"accuracy", "eval_loss"}
    assert meta == {
        "library_name": "sharetune",
        "license": "other",
        "license_name": "that-of-the-base-model",
        "pipeline_tag": "text-classification",
        "tags": ["sharetune"],
    }
    assert "# model, trial 5 of export" in card
    assert "](plan.svg)" in card
    picture = ElementTree.parse(tmp_path / "out" / "plan.svg").getroot()
    assert picture.get("aria-label") == (
        "4 layers; bank A read by 50% of attention of layers 0..2, 50% of FFN of layers 0..2"
    )
    assert "layers  2  attention AAAAA..... A 50 %        ffn AAAAA..... A 50 %" in card
    assert "    bank: {ratio: 0.5}" in card
    # three layers of 8,192 parameters in matrices store half of them once: 2 x 4,096 less
    assert (
        "| parameters | 28.9\N{NARROW NO-BREAK SPACE}k | 37.1\N{NARROW NO-BREAK SPACE}k |" in card
    )
    assert "train: train.csv" in card and "torch: 2." in card and "seed: 0" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shared", "dense"])
def test_nothing_names_this_machine(run, tmp_path, name):
    call("export", run, HALF, tmp_path / "out", "--format", name)
    for path in (tmp_path / "out").iterdir():
        assert str(run.parent).encode() not in path.read_bytes(), path.name


@pytest.mark.slow
def test_a_repeated_trial_has_the_weights_of_the_first(run, tmp_path):
    assert results.load(run)["same_as"][REPEATED] == CYCLED
    assert call("export", run, REPEATED, tmp_path / "out").exit_code == 0
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert weights == (run / "trials" / "3" / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_study_whose_model_is_gone(run, tmp_path):
    shutil.copytree(run.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / "run"
    shutil.rmtree(tmp_path / "copy" / "model")
    hidden = run.parent / "elsewhere"
    (run.parent / "model").rename(hidden)
    try:
        result = call("export", copy, CYCLED, tmp_path / "out")
    finally:
        hidden.rename(run.parent / "model")
    assert result.exit_code == 0, result.output
    assert "such as a tokenizer, is not with it: the study's model is gone" in result.stderr
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def mistake(*arguments):
    result = call("export", *arguments)
    assert result.exit_code == 2
    error, blank, hint = result.stderr.rstrip("\n").split("\n")
    assert error.startswith("error: ") and blank == "" and hint.startswith("hint: ")
    return error, hint


@pytest.mark.slow
def test_mistakes_end_in_one_error_and_a_hint(run, tmp_path):
    out = tmp_path / "out"
    error, hint = mistake(run, 99, out)
    assert error == f"error: no trial 99 in {run}" and hint == "hint: the run has trials 0 to 5"
    error, hint = mistake(run, 0, out, "--format", "onxx")
    assert error == "error: unknown export format: 'onxx'" and "did you mean 'onnx'?" in hint
    assert "put together from a bank" in mistake(run, HALF, out, "--format", "albert")[0]
    assert mistake(run, 0, run)[0] == f"error: {run} exists already"
    assert "there is no" in mistake(tmp_path, 0, out)[0]
    assert not out.exists()


@pytest.mark.slow
def test_weights_that_were_not_kept(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "trials" / "3")
    error, hint = mistake(copy, 3, tmp_path / "out")
    assert error == "error: the weights of trial 3 were not kept"
    assert hint.startswith("hint: trials that can be exported: 0..2, 5; `keep: all` in the study")
    shutil.rmtree(copy / "trials")
    assert mistake(copy, 3, tmp_path / "out")[1].startswith("hint: no trial has weights; `keep:")


@pytest.mark.slow
def test_weights_that_cannot_be_read(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    weights = copy / "trials" / "3" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "cannot be read" in mistake(copy, 3, tmp_path / "out")[0]
    weights.unlink()
    assert "cannot be read" in mistake(copy, 3, tmp_path / "out")[0]
    assert not (tmp_path / "out").exists()


def test_help_and_list():
    assert "--format" in call("export", "--help").stdout
    assert re.search("albert +a native ALBERT checkpoint", call("list", "exports").stdout)
