"""A validation split: where it comes from, and that only finalists see the test split."""

import pandas as pd
import pytest
from pydantic import ValidationError

from sharetune.spaces.errors import DataError
from sharetune.trainers.evaluation.evaluator import Trainee
from sharetune.trainers.tasks.base import read_task
from tests.checkpoint import write_rows
from tests.trainers.conftest import candidate


def task_of(trainee, **changes):
    return read_task(trainee.task.model_dump(exclude_none=True) | changes)


def prepared(trainee, folder, **changes):
    made = Trainee(trainee.model, task_of(trainee, **changes), folder / "cache")
    return made, made.prepare(12)


def test_a_fraction_of_the_training_rows_is_held_out_evenly_over_labels(trainee, tmp_path):
    made, facts = prepared(trainee, tmp_path, validation=0.2)
    assert facts["rows"] == {"train": 72, "validation": 18, "test": 30}
    frames = {
        name: pd.read_parquet(tmp_path / "cache" / f"{name}.parquet") for name in facts["rows"]
    }
    assert frames["validation"]["label"].value_counts().to_dict() == {0: 6, 1: 6, 2: 6}
    whole = sorted(pd.read_csv(trainee.task.train)["text"])
    assert sorted([*frames["train"]["text"], *frames["validation"]["text"]]) == whole
    _, judged = made.task.splits(made.start, made.cache, 12)
    assert len(judged.rows) == 18
    assert len(made.task.test_split(made.start, made.cache, 12).rows) == 30


def test_a_file_is_read_by_the_training_data_s_labels(trainee, tmp_path):
    path = write_rows(tmp_path / "validation.csv", 2, seed=2)  # without the third label
    _, facts = prepared(trainee, tmp_path, validation=str(path))
    assert facts["rows"] == {"train": 90, "validation": 2, "test": 30}
    assert facts["labels"] == ["food", "sea", "sky"]
    path.write_text("text,label\na,earth\n")
    with pytest.raises(
        DataError, match=r"validation.csv has labels that .*train.csv lacks: 'earth'"
    ):
        prepared(trainee, tmp_path, validation=str(path))


@pytest.mark.parametrize("part", [0.0, 1.0, 1.5])
def test_a_fraction_that_is_none(trainee, part):
    with pytest.raises(ValidationError) as caught:
        task_of(trainee, validation=part)
    mistake = caught.value.errors()[0]["ctx"]["error"]
    assert mistake.message == (
        "task.validation must be a file or a fraction of the training data between 0 and 1, "
        f"but got {part:g}"
    )


def test_a_fraction_of_too_few_rows(trainee, tmp_path):
    rows = write_rows(tmp_path / "train.csv", 6)
    with pytest.raises(DataError, match="has 6 rows to train on, of which none can be held out"):
        prepared(trainee, tmp_path, train=str(rows), validation=0.1)


def test_of_a_recommender_s_users_the_item_before_the_last_is_asked_for(tmp_path):
    rows = [(user, item, time) for user in range(10) for time, item in enumerate("abcde")]
    path = tmp_path / "train.csv"
    pd.DataFrame(rows, columns=["user", "item", "time"]).to_csv(path, index=False)
    task = {"name": "next-item-recommendation", "train": str(path), "validation": 0.3}
    frames, facts = read_task(task).read_splits()
    assert facts == {"items": 4}  # "e" is only ever the test
    assert sorted(map(len, frames["train"]["items"])) == [3] * 3 + [4] * 7
    assert [list(row) for row in frames["validation"]["items"]] == [[1, 2, 3]] * 3
    assert frames["validation"]["next"].tolist() == [4] * 3


def test_only_a_finalist_is_measured_on_the_test_split(trainee, tmp_path):
    made, facts = prepared(trainee, tmp_path, validation=0.2)
    one = candidate(facts, steps=4)
    searched = made.evaluate(one, facts, save_to=tmp_path / "0" / "model")
    again = made.evaluate(one, facts, save_to=tmp_path / "1" / "model", final=True)
    assert "test" not in searched
    assert searched["metrics"] == again["metrics"]
    count = {
        name: sum(row["support"] for row in found["per_class"].values())
        for name, found in (("validation", again), ("test", again["test"]))
    }
    assert count == {"validation": 18, "test": 30}
    assert set(again["test"]["metrics"]) == set(again["metrics"])


def test_without_a_validation_split_a_finalist_has_no_other(trainee, facts, tmp_path):
    one = candidate(facts, steps=2)
    assert "test" not in trainee.evaluate(one, facts, save_to=tmp_path / "model", final=True)
