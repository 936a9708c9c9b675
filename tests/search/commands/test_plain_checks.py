"""Names and paths that are wrong end in an error before anything of torch is imported."""

import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest
import yaml

from sharetune.results.reading.study import read_study
from sharetune.search.commands import plain_checks
from sharetune.search.commands.kept_weights import kept_weights
from sharetune.search.commands.plain_checks import require_extra
from sharetune.spaces.errors import ConfigError, RunError
from sharetune.trainers.exports.base import EXPORTS, needs_of
from sharetune.trainers.tasks.base import TASKS
from sharetune.trainers.training.tracking import NEEDED
from tests.paths import ROOT

STUDY = {
    "model": "model",
    "task": {"name": "text-classification", "train": "train.csv"},
    "executor": "local",
    "space": {"recipe": {"steps": 1}},
}

CALLS = """
import sys
from typer.testing import CliRunner
from sharetune.search.commands.cli import app
for line in sys.stdin.read().splitlines():
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2, result.output
    error, _, hint = result.stderr.rstrip().split("\\n")[-3:]
    print(f"{error} | {hint}")
print(*{"torch", "transformers", "ray"} & set(sys.modules))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    (folder / "model").mkdir()
    (folder / "train.csv").write_text("text,label\n")
    changes = {
        "data": {"task": STUDY["task"] | {"train": "trian.csv"}},
        "task": {"task": STUDY["task"] | {"name": "text-clasification"}},
        "model": {"model": "./modle"},
        "owner": {"model": "a/b/c"},
        "export": {"exports": ["onx"]},
        "column": {"task": STUDY["task"] | {"text": "body"}},
    }
    for name, change in changes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(STUDY | change))
    return folder


def refused(folder, expected):
    """See that each command line ends in its error, and torch stays unloaded."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        input="\n".join(expected),
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    *found, loaded = done.stdout.split("\n")[:-1]
    for line, text in zip(found, expected.values(), strict=True):
        assert text in line
    assert loaded == ""


def test_each_is_one_error_without_torch(folder):
    expected = {
        "search data.yaml": f"error: no such data file: {folder}/trian.csv | "
        f"hint: did you mean '{folder}/train.csv'? in a study file, paths are relative to that "
        "file",
        "search task.yaml": "unknown task: 'text-clasification' | hint: did you mean "
        "'text-classification'?",
        "search model.yaml": "error: no such folder: ./modle | hint: did you mean "
        f"'{folder}/model'? paths are relative to the study file's folder, {folder}",
        "score owner.yaml": "error: no such folder: a/b/c | hint: paths are relative to",
        "search export.yaml": "unknown export format: 'onx' | hint: did you mean 'onnx'?",
        "search column.yaml": f"{folder}/train.csv has no text column: looked for 'body', and the "
        "table has 'text', 'label' | hint: set task.text to the column's name",
        "init --task text-classification --model model --data train.csv --set task.label=lable": ""
        "error: train.csv has no label column: looked for 'lable', and the table has 'text', 'l",
        "init --task tensors --model model --data trian.csv": "error: no such data file: trian.csv "
        f"| hint: did you mean 'train.csv'? paths are relative to the working directory, {folder}",
        "init --task tensor --model model --data train.csv": "hint: did you mean 'tensors'?",
        "init --task tensors --model /no/model --data train.csv": "no such folder: /no/model",
        "show cycle --model ../nothing": "no such folder: ../nothing",
        "show cycel --model model": "no such plan file: cycel",
    }
    refused(folder, expected)


@pytest.mark.slow
def test_exports_of_nothing_end_without_torch(folder):
    finished = ROOT / "tests/data/written-at-e71c858/finished"
    expected = {
        "export model 0 out": "there is no model/study.db",
        f"export {finished} 99 out": "no trial 99 in",
        f"export {finished} 0 out --format onx": "did you mean 'onnx'?",
    }
    refused(folder, expected)


def test_names_read_from_files_are_those_that_are_registered(monkeypatch):
    for unloaded, registry in ((plain_checks.TASKS, TASKS), (plain_checks.EXPORTS, EXPORTS)):
        registered = set(registry)
        assert set(unloaded.names()) == registered
        monkeypatch.setattr(plain_checks.sys, "modules", {})
        assert set(unloaded.names()) <= registered and len(unloaded.names()) >= 10
        monkeypatch.undo()


def test_keys_of_columns_are_those_of_the_tasks():
    described = {
        name
        for task in TASKS.values()
        for name, field in task.model_fields.items()
        if (field.description or "").startswith("column of ")
    }
    assert plain_checks._keys_of_columns() == described
    assert {"text", "pair", "label", "question", "audio"} <= described


def test_extras_are_those_that_formats_and_trackers_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        extra: {line.split(">")[0] for line in lines}
        for extra, lines in project["optional-dependencies"].items()
    }
    for name in EXPORTS:
        assert extras.get(name.split("-")[0], set()) == set(needs_of(name).packages), name
    assert set(NEEDED) <= set(extras)


def test_a_missing_extra_is_named(monkeypatch):
    missing = {"openvino": ["no-such-package"], "onnx": []}
    monkeypatch.setattr(plain_checks, "missing_of_extras", lambda: missing)
    with pytest.raises(ConfigError, match="needs no-such-package, which is not inst") as caught:
        require_extra("the openvino format", "openvino")
    assert caught.value.hint == "pip install 'sharetune[openvino]'"
    require_extra("the onnx format", "onnx")
    require_extra("the dense format", "dense")


def test_a_trial_without_weights_says_how_it_ended():
    study = read_study(ROOT / "tests/data/written-at-e71c858/finished")
    folder = study.path / "trials"
    assert kept_weights(study, 3) == folder / "3" / "model"
    numbers = study.frame["number"]
    changed = study.frame.assign(
        state=numbers.map({0: "FAIL", 2: "PRUNED", 4: "RUNNING"}).fillna("COMPLETE"),
        reason=numbers.map({2: "the loss is nan"}),
        error_kind=numbers.map({0: "OSError"}),
        error_message=numbers.map({0: "disk gone\nmore"}),
    )
    study = replace(study, frame=changed)
    for number, message in {
        0: "trial 0 failed: OSError: disk gone",
        2: "trial 2 was pruned: the loss is nan",
        4: "trial 4 has not ended: it has no weights yet",
        5: "the weights of trial 5 were not kept",
    }.items():
        with pytest.raises(RunError) as caught:
            kept_weights(study, number)
        assert caught.value.message == message
        assert caught.value.hint.startswith("trials that can be exported: 1, 3, 7, 9")
