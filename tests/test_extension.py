"""New forms, tasks, samplers and the like are searched, from a plugin of one file."""

import shutil
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from sharetune import results
from sharetune.search.commands.cli import app
from sharetune.spaces import SharingPlan
from sharetune.spaces.plugins import load_plugins
from sharetune.trainers import load_shared, materialize_, share_
from tests.families import logits, tiny
from tests.paths import ROOT
from tests.registries import forget_what_is_registered
from tests.search.commands.test_cli import study

assert study, "a fixture"


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test registers is gone after it."""
    forget_what_is_registered(monkeypatch)
    yield
    sys.modules.pop("one_of_each", None)


def study_with_plugin(study, folder, **changes):
    """A study with `changes` whose plugin, `one_of_each.py`, lies next to its file."""
    shutil.copy(ROOT / "tests" / "one_of_each.py", folder)
    return study(plugins="one_of_each", **changes)


def test_a_new_form_is_shared_saved_and_loaded(tmp_path):
    load_plugins(["one_of_each"], ROOT / "tests")
    plan = SharingPlan.from_yaml("groups: [{layers: 1..4, form: {gain: {start: 0.5}}}]")
    model = share_(tiny("bert"), plan)
    model.save_pretrained(tmp_path)
    loaded = load_shared(tmp_path)
    assert loaded.sharing.plan == model.sharing.plan
    assert torch.equal(logits(loaded), logits(model))
    assert torch.allclose(logits(materialize_(loaded)), logits(model), atol=1e-6)


@pytest.mark.slow
def test_a_new_assignment_and_a_new_form_are_searched(study, tmp_path):
    path = study_with_plugin(
        study,
        tmp_path,
        anchors=["unshared"],
        budget={"trials": 5},
        space={
            "plan": [
                {
                    "layers": "0..-1",
                    "assign": {"choices": ["ends", {"cycle": 2}]},
                    "form": {"choices": ["tie", {"gain": {"start": {"low": 0.5, "high": 2.0}}}]},
                }
            ],
            "recipe": {"steps": 2, "max_length": 8},
        },
    )
    result = CliRunner().invoke(app, ["search", path, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    frame = results.load(tmp_path / "run")
    assert (frame["state"] == "COMPLETE").all()
    assert frame["plan"].str.contains("gain").any()
    assert "gain" in CliRunner().invoke(app, ["list", "forms"]).stdout
    assert "ends" in CliRunner().invoke(app, ["list", "assignments"]).stdout


READ_ELSEWHERE = """
import sys
from sharetune.results.reading.study import read_study
found = read_study(sys.argv[1])
for objective in found.objectives:
    print(objective.name, objective.title, objective.source, objective.unit)
print(found.frame["uses"].tolist())
assert not {"one_of_each", "torch"} & set(sys.modules)
"""


def one_of_each(study, folder, **changes):
    """A study with one of everything that can be added."""
    return study_with_plugin(
        study,
        folder,
        task={"name": "length", "train": "train.csv", "test": "test.csv"},
        objectives=["misses", "parameters", "layer_passes"],
        anchors=["unshared", "ends"],
        sampler={"seeded": {"shift": 1}},
        budget={"trials": 4},
        exports=["again"],
        keep="all",
        scoring="off",
        latency={"rounds": 2},
        **changes,
        space={
            "plan": [
                {
                    "layers": {"within": "0..-1"},
                    "form": {"choices": ["tie", {"gain": {"start": 0.5}}]},
                }
            ],
            "recipe": {"steps": 2, "max_length": 8},
            "compression": {"methods": {"rounded": {"decimals": {"choices": [1, 2]}}}},
        },
    )


@pytest.mark.slow
def test_a_new_task_is_searched(study, tmp_path):
    path = study_with_plugin(
        study,
        tmp_path,
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


def test_an_objective_that_the_task_does_not_measure(study, tmp_path):
    path = study_with_plugin(
        study,
        tmp_path,
        task={"name": "length", "train": "train.csv"},
        objectives=["bleu", "parameters"],
    )
    result = CliRunner().invoke(app, ["search", path, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "error: the task length does not measure bleu" in result.output
    assert "for example objectives: [misses, parameters, flops]" in result.output


@pytest.mark.slow
def test_one_of_each_from_a_module_elsewhere_is_searched(study, tmp_path):
    run = tmp_path / "run"
    path = one_of_each(study, tmp_path)
    result = CliRunner().invoke(app, ["search", path, "--out", str(run)])
    assert result.exit_code == 0, result.output
    frame = results.load(run)
    assert (frame["state"] == "COMPLETE").all()
    assert frame["misses"].between(0, 30).all()
    assert frame["layer_passes"].tolist() == [4.0] * 4
    assert frame["anchor"].tolist()[:2] == ["unshared", "ends"]
    assert frame["compression.methods.rounded.decimals"].dropna().isin([1, 2]).all()
    measured = frame["uses"].dropna()
    assert len(measured) >= 2 and (measured == 1.0).all()  # the anchors and the front
    page = (run / "report.html").read_text()
    assert "layers run" in page
    weights = load_shared(run / "trials" / "3" / "model").base_model.encoder.layer[0]
    rounded = weights.output.LayerNorm.weight
    assert torch.equal(rounded, rounded.round(decimals=2))
    exported = ["export", str(run), "3", str(tmp_path / "out"), "--format", "again"]
    assert CliRunner().invoke(app, exported).exit_code == 0
    read = subprocess.run(
        [sys.executable, "-c", READ_ELSEWHERE, str(run)], capture_output=True, text=True, cwd=ROOT
    )
    assert read.stdout.split("\n")[:3] == [
        "misses misses trained ",
        "parameters parameters exact ",
        "layer_passes layers run exact ",
    ], read.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_one_of_each_is_searched_on_ray_workers(study, tmp_path):
    """In processes of their own, which know the module from the study file alone."""
    path, module = one_of_each(study, tmp_path, executor="ray"), str(tmp_path / "one_of_each.py")
    for words in (
        ["search", path, "--out", "run"],
        ["export", "run", "3", "out", "--format", "again", "--plugin", module],
    ):
        command = [sys.executable, "-m", "sharetune", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    frame = results.load(tmp_path / "run")
    assert (frame["state"] == "COMPLETE").all()
    assert frame["plan"].str.contains("gain").any()
    assert frame["layer_passes"].tolist() == [4.0] * 4
    assert frame["uses"].notna().sum() >= 2  # the anchors and the front
