"""Study files: what is read, and mistakes listed with their place."""

import pytest
import yaml

from sharetune.search.config import load_config
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.paths import SUFFIXES
from sharetune.trainers.data.files import DECOMPRESSORS, READERS

GOOD = {
    "model": "model",
    "task": {"name": "text-classification", "train": "data/train.csv"},
    "space": {"recipe": {"steps": 5}},
}


def write(tmp_path, data):
    path = tmp_path / "study.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def test_paths_are_relative_to_the_study_file(tmp_path):
    (tmp_path / "model").mkdir()
    config = load_config(write(tmp_path, GOOD))
    assert config.model == str(tmp_path / "model")
    assert config.task["train"] == str(tmp_path / "data" / "train.csv")
    assert config.name == tmp_path.name


def test_a_hub_name_stays_one(tmp_path):
    config = load_config(write(tmp_path, GOOD | {"model": "google/electra-small"}))
    assert config.model == "google/electra-small"


def test_a_plan_may_be_the_name_of_a_preset(tmp_path):
    ffn = {"groups": [{"layers": "all", "parts": ["ffn", "biases"], "form": "tie"}]}
    named, written = load_config(write(tmp_path, GOOD | {"plans": ["albert-ffn", ffn]})).plans
    assert named == written
    with pytest.raises(ConfigError, match="unknown preset: 'albert-fnn'"):
        load_config(write(tmp_path, GOOD | {"plans": ["albert-fnn"]}))


@pytest.mark.parametrize(
    ("low", "high"),
    [("1e-5", "3e-4"), ("1E-5", "3.0e-4"), ("'1e-5'", '"3e-4"'), (".00001", "+3e-4")],
)
def test_a_range_may_be_written_without_a_point(tmp_path, low, high):
    text = yaml.safe_dump(GOOD | {"space": {}}).replace(
        "{}", "{recipe: {learning_rate: {low: LOW, high: HIGH, log: true}, steps: 1e2}}"
    )
    config = load_config(write(tmp_path, text.replace("LOW", low).replace("HIGH", high)))
    rate = {"low": 0.00001, "high": 0.0003, "log": True}
    assert config.space.recipe == {"learning_rate": rate, "steps": 100.0}
    assert config.space.reference_recipe().learning_rate == 5e-5


def test_choices_may_be_written_without_a_point(tmp_path):
    choices = "space.recipe.learning_rate={choices: [1e-5, 3e-4]}"
    config = load_config(write(tmp_path, GOOD), (choices, "budget.max_parameters=1e6"))
    assert config.space.recipe["learning_rate"] == {"choices": [0.00001, 0.0003]}
    assert config.budget.max_parameters == 1000000.0


def test_a_pattern_is_relative_to_the_study_file(tmp_path):
    (tmp_path / "train-0.csv").write_text("text,label\n")
    for pattern in ("train-*.csv", "./train-*", "train-?.csv"):
        config = load_config(write(tmp_path, GOOD | {"task": {"name": "a", "train": pattern}}))
        assert config.task["train"] == str(tmp_path / pattern)


def test_every_kind_of_data_file_is_known_as_a_path():
    assert {*SUFFIXES} == {*READERS, *DECOMPRESSORS}


def test_overrides(tmp_path):
    config = load_config(write(tmp_path, GOOD), ("budget.trials=3", "space.recipe.steps=9"))
    assert config.budget.trials == 3
    assert config.space.recipe["steps"] == 9


@pytest.mark.parametrize(
    ("written", "forms"),
    [
        ({"forms": ["onnx", "gguf-q8_0"]}, ("onnx", "gguf-q8_0")),
        ({"forms": "openvino"}, ("openvino",)),
        ({"onnx": True, "rounds": 3}, ("onnx",)),  # as studies had it before
        ({"onnx": False}, ()),
    ],
    ids=str,
)
def test_the_formats_that_are_timed(tmp_path, written, forms):
    config = load_config(write(tmp_path, GOOD | {"latency": written}))
    assert config.latency.forms == forms
    assert "onnx" not in config.latency.model_dump()


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"modle": 1}, "modle: unknown key", "did you mean 'model'?"),
        ({"budget": {"trails": 1}}, "budget.trails: unknown key", "did you mean 'trials'?"),
        ({"budget": {"trials": 0}}, "budget.trials: input should be greater", ""),
        ({"objectives": ["acuracy"]}, "unknown objective: 'acuracy'", "did you mean 'accuracy'?"),
        ({"objectives": ["accuracy", "latency_ms"]}, "on a quiet device", "search with flops"),
        ({"anchors": ["untied"]}, "unknown anchor: 'untied'", "available"),
        ({"space": {"recipe": {"lr": 1}}}, "unknown key in recipe: 'lr'", "available"),
        ({"space": {"plan": [{"layers": "1..4", "ration": 1}]}}, "unknown key", "available"),
        (
            {"sampler": "tpee"},
            "sampler: unknown sampler: 'tpee'",
            "did you mean 'tpe'? available: auto",
        ),
        (
            {"space": {"recipe": {"soften": "unty"}}},
            "recipe.soften: unknown schedule: 'unty'",
            "did you mean 'untie'? available: interpolate, replace, pull, untie",
        ),
        (
            {"space": {"recipe": {"bank_lr_rule": "sqr"}}},
            "recipe.bank_lr_rule: unknown learning rate rule: 'sqr'",
            "did you mean 'sqrt'? available: none, sqrt, readers",
        ),
        (
            {"space": {"recipe": {"distill": {"schedule": "faling"}}}},
            "recipe.distill.schedule: unknown distillation schedule: 'faling'",
            "did you mean 'falling'? available: constant, falling",
        ),
        (
            {"space": {"compression": {"quantize": "int-8"}}},
            "compression.quantize: unknown quantisation: 'int-8'",
            "did you mean 'int8'? available: int8, dynamic-int8",
        ),
        (
            {"plans": [{"groups": [{"layers": "1..4", "units": "fist"}]}]},
            "unknown choice of units: 'fist'",
            "did you mean 'first'? available: first, best-match, importance",
        ),
        ({"plugins": "no_such"}, "there is no plugin 'no_such'", "put no_such.py beside"),
        ({"resources_per_trial": {"workers": 2}}, "unknown key", "did you mean 'resources'?"),
        (
            {"resources": {"gpu": 2}},
            "a worker uses one GPU at most, but got gpu=2",
            "write resources: {workers_per_trial: 2, gpu: 1}",
        ),
        (
            {"resources": {"gpu": 0.5, "workers_per_trial": 2}},
            "workers of one trial cannot share a GPU, but got gpu=0.5 and workers_per_trial=2",
            "write gpu: 1, or leave workers_per_trial out",
        ),
        (
            {"resources": {"shard": True}},
            "shard divides a trial among its workers, but workers_per_trial is 1",
            "write resources: {workers_per_trial: 2, shard: true}",
        ),
        (
            {"executor": "local", "resources": {"workers_per_trial": 2}},
            "executor: local is one process, but resources.workers_per_trial is 2",
            "leave executor out, or workers_per_trial",
        ),
        ({"plans": [{"groups": [{"layers": "4..1"}]}]}, "`first <= last` must hold", ""),
    ],
)
def test_mistakes(tmp_path, change, message, hint):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, GOOD | change))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_all_mistakes_are_listed_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, GOOD | {"modle": 1, "budget": {"trials": 0}, "seed": -1}))
    for place in ("modle", "budget.trials", "seed"):
        assert place in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is not YAML in UTF-8: while parsing a flow sequence at line 1, column 4"),
        ("", "holds no keys"),
        ("- 1", "holds no keys"),
        ("model: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_files_that_are_no_study(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, content))


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such study file"):
        load_config(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("setting", ["budget.trials={", "=3", "budget.=3", "trials"])
def test_an_override_that_cannot_be_read_is_one_error(tmp_path, setting):
    with pytest.raises(ConfigError, match="--set"):
        load_config(write(tmp_path, GOOD), (setting,))


def test_an_override_may_fill_an_empty_section(tmp_path):
    path = write(tmp_path, GOOD | {"finalists": None})
    assert load_config(path, ("finalists.seeds=3",)).finalists.seeds == 3


def test_a_value_in_place_of_a_section_is_named(tmp_path):
    with pytest.raises(ConfigError, match="start_from: must be a section of keys, but got 'x'"):
        load_config(write(tmp_path, GOOD | {"start_from": "x"}))
    with pytest.raises(ConfigError, match="list should have at least 1 item"):
        load_config(write(tmp_path, GOOD | {"start_from": {"runs": []}}))
