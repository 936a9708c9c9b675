"""A study is the same in another place and for a newer version; what differs is named."""

import copy
import sqlite3

import pytest

from sharetune.results.page.report import write_report
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import read_study
from sharetune.search.run import run
from sharetune.search.same_study import FIXED, differences, named, other_keys, places
from sharetune.search.study_file import load_config
from sharetune.spaces.errors import RunError
from sharetune.spaces.paths import relocated
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study

PROJECT = """\
name: moved
model: ./model
task: {name: text-classification, train: data/train.csv, test: data/test.csv}
executor: local
budget: {trials: 2}
latency: {rounds: 0}
space:
  plan: [{layers: {within: 0..-1, min: 2}, form: tie}]
  recipe: {steps: 1}
"""


def project(folder):
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "data").mkdir()
    for name in ("train.csv", "test.csv"):
        (folder / "data" / name).write_text("text,label\na,b\n")
    (folder / "study.yaml").write_text(PROJECT)
    return folder


def searched(folder, out, *overrides, **settings):
    config = load_config(folder / "study.yaml", overrides)
    return run(config, out=out, evaluator=FakeEvaluator(), **settings)


@pytest.mark.parametrize("inside", [True, False], ids=["run inside", "run outside"])
def test_a_renamed_project_goes_on(tmp_path, inside):
    folder = project(tmp_path / "old")
    out = (folder if inside else tmp_path) / "run"
    searched(folder, out)
    moved = folder.rename(tmp_path / "new")
    out = moved / "run" if inside else out
    if inside:  # before anything is noted of the new place
        assert read_study(out).config["model"] == str(moved / "model")
    searched(moved, out, "budget.trials=3", resume=True)
    config = read_study(out).config
    assert len(read_study(out).frame) == 3
    assert config["model"] == str(moved / "model")
    assert config["task"]["train"] == str(moved / "data" / "train.csv")


def test_other_data_of_the_same_project_are_another_study(tmp_path):
    folder = project(tmp_path / "old")
    searched(folder, folder / "run")
    moved = folder.rename(tmp_path / "new")
    (moved / "study.yaml").write_text(PROJECT.replace("train: data/train", "train: data/test"))
    with pytest.raises(RunError, match=r"task.train was '.study/data/train.csv' and is '.study/da"):
        searched(moved, moved / "run", resume=True)


def stored(config):
    return {record.CONFIG: copy.deepcopy(config.model_dump(mode="json"))}


def found(config, attributes, tmp_path):
    return differences(config, tmp_path, attributes, FIXED)


def test_defaults_of_keys_that_an_older_version_did_not_have_make_no_difference(tmp_path):
    config = study()
    attributes = stored(config)
    for key in ("anchors", "seed", "sampler", "metric"):
        del attributes[record.CONFIG][key]
    assert found(config, attributes, tmp_path) == []


def test_a_changed_default_is_named_with_both_values(tmp_path):
    config = study()
    attributes = stored(config)
    attributes[record.CONFIG]["space"]["recipe"]["steps"] = 7
    assert found(config, attributes, tmp_path) == ["space.recipe.steps was 7 and is 1"]


def test_a_key_that_this_version_does_not_know_is_named(tmp_path):
    config = study()
    attributes = stored(config)
    attributes[record.CONFIG]["space"]["gone"] = 1
    assert found(config, attributes, tmp_path) == ["space.gone was 1 and is None"]


@pytest.mark.parametrize(
    ("before", "now", "difference"),
    [
        ([{"layers": "all"}], [], "plan had 1 and has 0 entries"),
        (["a"], ["a", "b"], "plan was ['a'] and is ['a', 'b']"),
        (None, {"low": 1, "step": None}, "plan was None and is {low: 1}"),
        (1, {"choices": list(range(99))}, None),
    ],
)
def test_differences_are_short(before, now, difference):
    (found,) = other_keys("space", {"plan": before}, {"plan": now})
    assert len(found) < 150
    assert difference is None or found == f"space.{difference}"


def test_few_differences_are_named_and_the_others_counted():
    assert named(["a", "b"]) == "a; b"
    assert named(list("abcdef")) == "a; b; c; d; and 2 more"


def test_paths_alone_are_relocated():
    data = {"a": ["/old/x", "/older/x", "old/x", "/old"], "b": 1}
    assert relocated(data, "/old", "/new") == {"a": ["/new/x", "/older/x", "old/x", "/new"], "b": 1}


def test_a_study_without_a_file_has_only_its_run(tmp_path):
    assert places(study(), tmp_path) == {"run": str(tmp_path)}


@pytest.mark.parametrize(
    ("version", "age", "way_out"),
    [
        (
            "v2.6.0.a",
            "an older",
            "copy it first, then: optuna storage upgrade --storage sqlite:///",
        ),
        ("v99.0.0.a", "a newer", "pip install -U optuna"),
    ],
)
def test_tables_of_another_version_of_optuna(tmp_path, version, age, way_out):
    folder = project(tmp_path / "project")
    out = searched(folder, folder / "run")
    with sqlite3.connect(out / record.STORAGE) as storage:
        storage.execute("update alembic_version set version_num = ?", [version])
    for use in (lambda: searched(folder, out, resume=True), lambda: write_report(out)):
        with pytest.raises(RunError, match=f"has the tables of {age} version of Optuna") as caught:
            use()
        assert caught.value.hint.startswith(way_out)
