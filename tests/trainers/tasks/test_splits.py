"""A validation split: where it comes from, and that only finalists see the test split."""

import pandas as pd
import pytest

from sharetune.spaces.errors import ConfigError, DataError
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import read_task
from tests.checkpoint import write_rows
from tests.trainers.conftest import candidate, evaluated


def task_of(evaluator, **changes):
    return read_task(evaluator.task.task.model_dump(exclude_none=True) | changes)


def prepared(evaluator, folder, **changes):
    task = task_of(evaluator, **changes)
    return CandidateEvaluator.prepare(evaluator.task.model, task, folder / "cache", 12)


def test_a_fraction_of_the_training_rows_is_held_out_evenly_over_labels(evaluator, tmp_path):
    made = prepared(evaluator, tmp_path, validation=0.2)
    assert made.rows == {"train": 72, "validation": 18, "test": 30}
    frames = {name: pd.read_parquet(tmp_path / "cache" / f"{name}.parquet") for name in made.rows}
    assert frames["validation"]["label"].value_counts().to_dict() == {0: 6, 1: 6, 2: 6}
    whole = sorted(pd.read_csv(evaluator.task.task.train)["text"])
    assert sorted([*frames["train"]["text"], *frames["validation"]["text"]]) == whole
    _, judged = made.task.splits(12, None)
    assert len(judged.rows) == 18
    assert len(made.task.test_split(12).rows) == 30


def test_a_fraction_of_the_training_rows_can_be_the_test(evaluator, tmp_path):
    made = prepared(evaluator, tmp_path, test=0.1, validation=0.5)
    assert made.rows == {"train": 39, "validation": 42, "test": 9}
    frames = [pd.read_parquet(tmp_path / "cache" / f"{name}.parquet") for name in made.rows]
    assert frames[2]["label"].value_counts().to_dict() == {0: 3, 1: 3, 2: 3}
    whole = sorted(pd.read_csv(evaluator.task.task.train)["text"])
    assert sorted(pd.concat(frames)["text"]) == whole


def test_a_file_is_read_by_the_training_data_s_labels(evaluator, tmp_path):
    path = write_rows(tmp_path / "validation.csv", 2, seed=2)  # without the third label
    made = prepared(evaluator, tmp_path, validation=str(path))
    assert made.rows == {"train": 90, "validation": 2, "test": 30}
    assert made.labels == ("food", "sea", "sky")
    path.write_text("text,label\na,earth\n")
    with pytest.raises(
        DataError, match=r"validation.csv has labels that .*train.csv lacks: 'earth'"
    ):
        prepared(evaluator, tmp_path, validation=str(path))


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("part", [0.0, 1.0, 1.5])
def test_a_fraction_that_is_none(evaluator, split, part):
    with pytest.raises(ConfigError) as caught:
        task_of(evaluator, **{split: part})
    assert caught.value.message.endswith(
        f"task.{split} must be a file or a fraction of the training data between 0 and 1, "
        f"but got {part:g}"
    )


def test_a_fraction_of_too_few_rows(evaluator, tmp_path):
    rows = write_rows(tmp_path / "train.csv", 6)
    with pytest.raises(DataError, match="has 6 rows to train on, of which none can be held out"):
        prepared(evaluator, tmp_path, train=str(rows), validation=0.1)


def test_of_a_recommender_s_users_the_item_before_the_last_is_asked_for(tmp_path):
    rows = [(user, item, time) for user in range(10) for time, item in enumerate("abcde")]
    path = tmp_path / "train.csv"
    pd.DataFrame(rows, columns=["user", "item", "time"]).to_csv(path, index=False)
    task = {"name": "next-item-recommendation", "train": str(path), "validation": 0.3}
    frames, facts = read_task(task).read_splits()
    assert facts.items == 4  # "e" is only ever the test
    assert sorted(map(len, frames["train"]["items"])) == [3] * 3 + [4] * 7
    assert [list(row) for row in frames["validation"]["items"]] == [[1, 2, 3]] * 3
    assert frames["validation"]["next"].tolist() == [4] * 3


@pytest.mark.slow
def test_only_a_finalist_is_measured_on_the_test_split(evaluator, tmp_path):
    made = prepared(evaluator, tmp_path, validation=0.2)
    one = candidate(made, steps=4)
    searched = evaluated(made, one, tmp_path / "0")
    again = evaluated(made, one, tmp_path / "1", final=True)
    assert searched.test is None
    assert searched.scores.metrics == again.scores.metrics
    count = {
        name: sum(row["support"] for row in found.per_class.values())
        for name, found in (("validation", again.scores), ("test", again.test))
    }
    assert count == {"validation": 18, "test": 30}
    assert set(again.test.metrics) == set(again.scores.metrics)


def test_without_a_validation_split_a_finalist_has_no_other(evaluator, tmp_path):
    one = candidate(evaluator, steps=2)
    assert evaluated(evaluator, one, tmp_path, final=True).test is None
