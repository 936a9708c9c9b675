"""Study files: how they are read, and what a command sets in them."""

import pytest
import yaml

from sharetune.search.study_file import load_config
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.paths import SUFFIXES
from sharetune.trainers.data.files import DECOMPRESSORS, READERS
from tests.search.studies import GOOD, write_study_file


def test_paths_are_relative_to_the_study_file(tmp_path):
    (tmp_path / "model").mkdir()
    config = load_config(write_study_file(tmp_path, GOOD))
    assert config.model == str(tmp_path / "model")
    assert config.task["train"] == str(tmp_path / "data" / "train.csv")
    assert config.name == tmp_path.name


def test_a_hub_name_stays_one(tmp_path):
    config = load_config(write_study_file(tmp_path, GOOD | {"model": "google/electra-small"}))
    assert config.model == "google/electra-small"


@pytest.mark.parametrize(
    ("low", "high"),
    [("1e-5", "3e-4"), ("1E-5", "3.0e-4"), ("'1e-5'", '"3e-4"'), (".00001", "+3e-4")],
)
def test_a_range_may_be_written_without_a_point(tmp_path, low, high):
    text = yaml.safe_dump(GOOD | {"space": {}}).replace(
        "{}", "{recipe: {learning_rate: {low: LOW, high: HIGH, log: true}, steps: 1e2}}"
    )
    config = load_config(write_study_file(tmp_path, text.replace("LOW", low).replace("HIGH", high)))
    rate = {"low": 0.00001, "high": 0.0003, "log": True}
    assert config.space.recipe == {"learning_rate": rate, "steps": 100.0}
    assert config.space.reference_recipe().learning_rate == 5e-5


def test_choices_may_be_written_without_a_point(tmp_path):
    choices = "space.recipe.learning_rate={choices: [1e-5, 3e-4]}"
    config = load_config(write_study_file(tmp_path, GOOD), (choices, "budget.max_parameters=1e6"))
    assert config.space.recipe["learning_rate"] == {"choices": [0.00001, 0.0003]}
    assert config.budget.max_parameters == 1000000.0


def test_a_pattern_is_relative_to_the_study_file(tmp_path):
    (tmp_path / "train-0.csv").write_text("text,label\n")
    for pattern in ("train-*.csv", "./train-*", "train-?.csv"):
        config = load_config(
            write_study_file(tmp_path, GOOD | {"task": {"name": "a", "train": pattern}})
        )
        assert config.task["train"] == str(tmp_path / pattern)


def test_every_kind_of_data_file_is_known_as_a_path():
    assert {*SUFFIXES} == {*READERS, *DECOMPRESSORS}


def test_overrides(tmp_path):
    config = load_config(
        write_study_file(tmp_path, GOOD), ("budget.trials=3", "space.recipe.steps=9")
    )
    assert config.budget.trials == 3
    assert config.space.recipe["steps"] == 9


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
        load_config(write_study_file(tmp_path, content))


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such study file"):
        load_config(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("setting", ["budget.trials={", "=3", "budget.=3", "trials"])
def test_an_override_that_cannot_be_read_is_one_error(tmp_path, setting):
    with pytest.raises(ConfigError, match="--set"):
        load_config(write_study_file(tmp_path, GOOD), (setting,))


def test_an_override_may_fill_an_empty_section(tmp_path):
    path = write_study_file(tmp_path, GOOD | {"finalists": None})
    assert load_config(path, ("finalists.seeds=3",)).finalists.seeds == 3


def test_a_value_in_place_of_a_section_is_named(tmp_path):
    with pytest.raises(ConfigError, match="start_from: must be a section of keys, but got 'x'"):
        load_config(write_study_file(tmp_path, GOOD | {"start_from": "x"}))
    with pytest.raises(ConfigError, match="list should have at least 1 item"):
        load_config(write_study_file(tmp_path, GOOD | {"start_from": {"runs": []}}))
