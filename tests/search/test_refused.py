"""Settings that make no sense are refused before a study exists, and leave no files."""

import pytest
import yaml
from typer.testing import CliRunner

from sharetune.search import run as running
from sharetune.search.commands import plain_checks
from sharetune.search.commands.cli import app
from sharetune.search.study_file import load_config
from sharetune.spaces.errors import ConfigError
from sharetune.trainers.tasks.base import read_task
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study

REGION = {"within": "0..-1", "min": 2}
IN_THE_MIDDLE = {"choices": ["tie", {"bank": {"ratio": {"choices": [3.0, 0.5]}}}, "drop"]}
"""Choices of which only one inside the second is wrong."""


def plan(**template):
    return {"space": {"plan": [{"layers": REGION} | template]}}


def recipe(**leaves):
    return {"space": {"recipe": leaves}}


REFUSED = {
    "a layer beyond the stack": (plan(layers="4..6"), "layer 6"),
    "a region beyond the stack": (plan(layers={"within": "0..99"}), "99"),
    "a layer beyond it in one of three choices": (
        plan(layers={"choices": ["0..1", "0..99", "2..3"]}),
        "99",
    ),
    "an init beyond it in one of three choices": (
        plan(init={"choices": ["mean", 77, "first"]}),
        "init: 77 is not a layer",
    ),
    "a layer beyond it in a plan": ({"plans": [{"groups": [{"layers": [0, 6]}]}]}, "layer 6"),
    "a ratio in a choice inside a choice": (plan(form=IN_THE_MIDDLE), "less than or equal to 1"),
    "a region's min above its max": (
        plan(layers=REGION | {"max": 1}),
        "`min <= max` must hold for a group's layers, but got min=2 and max=1",
    ),
    "a range's low above its high": (
        recipe(learning_rate={"low": 1e-2, "high": 1e-4}),
        "`low <= high` must hold",
    ),
    "more layers than the region has": (plan(layers=REGION | {"min": 7}), "do not fit"),
    "a count below 0": (plan(count=-1), "`0 <= count <= 1000` must hold, but got -1"),
    "a range of counts below 0": (plan(count={"low": -2, "high": 1}), "but got -2"),
    "half a group": (plan(count=0.5), "count must be a whole number, but got 0.5"),
    "times below 1": (plan(times={"choices": [1, -3, 2]}), "greater than or equal to 1"),
    "trials below 1": ({"budget": {"trials": -4}}, "budget.trials: input should be greater"),
    "workers below 1": ({"resources": {"workers": -1}}, "resources.workers: input should be"),
    "hours below 0": ({"budget": {"wall_hours": -1}}, "budget.wall_hours: input should be"),
    "a sampler's count below 0": (
        {"sampler": {"TPESampler": {"n_startup_trials": -5}}},
        "TPESampler.n_startup_trials must be at least 0, but got -5",
    ),
    "true as a sampler's count": (
        {"sampler": {"TPESampler": {"n_startup_trials": True}}},
        "TPESampler.n_startup_trials must be a number, but got True",
    ),
    "true as a number of trials": ({"budget": {"trials": True}}, "trials must be a number"),
    "true as a seed": ({"seed": True}, "seed must be a number, but got true"),
    "true as a rung": ({"early_stopping": {"rungs": [True]}}, "rungs must be a number"),
    "false as a recipe's steps": (recipe(steps=False), "steps must be a number, but got false"),
    "true as one choice of a rate": (
        recipe(learning_rate={"choices": [1e-4, True, 1e-3]}),
        "learning_rate must be a number, but got true",
    ),
    "true as a bound": (recipe(learning_rate={"low": True, "high": 2}), "must be numbers"),
    "true as a layer": (plan(layers=[True, 2]), "layers must be a number, but got true"),
    "true as a count": (plan(count=True), "count must be a whole number, but got True"),
    "true as a bank": (
        plan(layers="0..1", assign={"owners": [True, False]}),
        "an assignment's argument is a whole number",
    ),
    "true as one of a bank's ratios": (
        plan(layers="0..1", form={"bank": {"ratio": [True, 0.5]}}),
        "ratio must be a number, but got true",
    ),
    "an infinite number among assignments": (
        plan(layers="0..1", assign={"choices": ["one", float("inf")]}),
        "numbers must be finite",
    ),
    "an infinite learning rate": (recipe(learning_rate=float("inf")), "numbers must be finite"),
    "one by its size": (recipe(learning_rate="1e999"), "numbers must be finite"),
    "one as text": (recipe(learning_rate="inf"), "input should be a finite number"),
    "one as a bound": (
        recipe(learning_rate={"low": 1e-5, "high": "1e999"}),
        "numbers must be finite",
    ),
    "a text as a bound": (
        recipe(learning_rate={"low": 1e-5, "high": "inf"}),
        "low and high must be numbers",
    ),
    "no number as a rate": (recipe(learning_rate="nan"), "finite number"),
    "fractions of steps": (recipe(steps={"low": 1.0, "high": 9.0}), "recipe.steps: input should"),
    "a seed of 33 bits": ({"seed": 2**32}, "seed: input should be less than 4294967296"),
    "a recipe's seed of 33 bits": (
        recipe(seed={"low": 0, "high": 2**32}),
        "recipe.seed: input should be less than 4294967296",
    ),
    "a seed below 0": ({"seed": -1}, "seed: input should be greater than or equal to 0"),
    "a GPU for this one process": ({"resources": {"gpu": 1}}, "executor: local takes the GPU"),
    "workers of a trial in it": (
        {"resources": {"workers_per_trial": 2}},
        "executor: local is one process",
    ),
}
"""Keys that make a valid study invalid, each with a part of the error message."""

AS_TEXT = {
    "a key twice": ("name: again\n", "the key 'name' is there twice"),
    "a key twice in a section": ("budget: {trials: 3, trials: 4}\n", "'trials' is there twice"),
    "an infinite number": ("latency: {rounds: .inf}\n", "numbers must be finite"),
}
"""Lines that make the text of a study file invalid, each with a part of the error message."""


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """A function that gives the command a study file, and returns what it says."""
    monkeypatch.setattr(plain_checks, "refuse_wrong_names", lambda _: None)
    monkeypatch.setattr(running, "real_evaluator", lambda *_: FakeEvaluator())
    monkeypatch.chdir(tmp_path)

    def told(text, *words):
        (tmp_path / "study.yaml").write_text(text, "utf-8")
        found = CliRunner().invoke(app, ["search", "study.yaml", "--out", "runs/new", *words])
        assert found.exit_code == 2, found.output
        assert "\n\nhint: " in found.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
        return found.stderr

    return told


def written(change):
    good = study().model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(good | {"executor": "local"} | change)


@pytest.mark.parametrize("what", REFUSED)
def test_nonsense_is_refused_before_there_is_a_study(refused, what):
    change, message = REFUSED[what]
    assert message in refused(written(change))


@pytest.mark.parametrize("what", AS_TEXT)
def test_so_is_what_yaml_would_lose_or_read_as_no_number(refused, what):
    more, message = AS_TEXT[what]
    good = yaml.safe_load(written({}))
    good.pop("budget")
    assert message in refused(yaml.safe_dump(good) + more)


@pytest.mark.parametrize("command", ["search", "score"])
def test_so_is_the_address_of_a_cluster_for_one_process(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plain_checks, "refuse_wrong_names", lambda _: None)
    (tmp_path / "study.yaml").write_text(written({}), "utf-8")
    line = [command, "study.yaml", "--out", "runs/new", "--address", "127.0.0.1:6379"]
    found = CliRunner().invoke(app, line)
    assert found.exit_code == 2
    assert "executor: local is this process, but got the address 127.0.0.1:6379" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize(
    ("task", "message", "hint"),
    [
        (
            {"name": "text-classification", "train": "t.csv", "lable": "x"},
            "the task text-classification: lable: unknown key",
            "did you mean 'label'? available: name, train, validation, test",
        ),
        (
            {"name": "translation", "train": "t.csv", "budget": 3},
            "the task translation: budget: unknown key",
            "available: name, train, validation, test, source",
        ),
        ({"name": "text-clasification"}, "unknown task: 'text-clasification'", "did you mean"),
        ({"train": "t.csv"}, "task needs a name", "available: "),
    ],
)
def test_unknown_keys_of_a_task_are_answered_with_its_own(task, message, hint):
    with pytest.raises(ConfigError) as caught:
        read_task(task)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_good_study_is_none_of_these(tmp_path):
    (tmp_path / "study.yaml").write_text(written({}), "utf-8")
    assert load_config(tmp_path / "study.yaml").executor == "local"
