"""Data files, good and bad."""

import datasets
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from sharetune.spaces.errors import DataError
from sharetune.trainers.data.tables import column, read_table

ROWS = pd.DataFrame({"text": ["one", "zwei"], "label": ["a", "b"]})


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_file(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    {
        "csv": lambda: ROWS.to_csv(path, index=False),
        "tsv": lambda: ROWS.to_csv(path, index=False, sep="\t"),
        "jsonl": lambda: ROWS.to_json(path, orient="records", lines=True),
        "parquet": lambda: ROWS.to_parquet(path),
    }[suffix]()
    assert read_table(str(path), "train").to_dict("list") == ROWS.to_dict("list")


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (None, "no such data file", "relative to the study file"),
        (b"", "is empty", "header and rows"),
        (b"text,label\n", "has no rows", "at least one row"),
        ("text,label\ncafé,a\n".encode("latin1"), "is not UTF-8: line 2 cannot", "iconv"),
        (b'text,label\n"one,a\n', "cannot be read as CSV", "known kinds of file"),
    ],
)
def test_bad_files(tmp_path, content, message, hint):
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(str(path), "train")
    assert hint in caught.value.hint


@pytest.fixture()
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_a_folder_as_a_data_set(own_cache, tmp_path):
    for split in ("train", "test"):
        ROWS.assign(text=split).to_csv(tmp_path / f"{split}.csv", index=False)
    assert read_table(str(tmp_path), "test")["text"].tolist() == ["test", "test"]
    with pytest.raises(DataError, match="with split 'validation': Unknown split"):
        read_table(str(tmp_path), "validation")


def test_numbers_with_names_become_the_names(own_cache, tmp_path):
    kinds = ClassLabel(names=["O", "B-PER"])
    features = Features({"tokens": [Value("string")], "tags": [kinds], "label": kinds})
    rows = {"tokens": [["Ada", "wrote"]], "tags": [[1, 0]], "label": [1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    (row,) = read_table(str(tmp_path), "train").to_dict("records")
    assert (row["tags"], row["label"]) == (["B-PER", "O"], "B-PER")


def test_a_configuration_of_a_data_set(own_cache, tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: a.csv\n"
        "- config_name: b\n  data_files: b.csv\n---\n"
    )
    for name in ("a", "b"):
        ROWS.assign(text=name).to_csv(tmp_path / f"{name}.csv", index=False)
    assert read_table(f"{tmp_path}:b", "train")["text"].tolist() == ["b", "b"]
    with pytest.raises(DataError, match="Config name is missing") as caught:
        read_table(str(tmp_path), "train")
    assert "a configuration follows a colon" in caught.value.hint


def test_an_unknown_data_set_offline():
    with pytest.raises(DataError, match="no data set 'no/such-set' with split 'train'"):
        read_table("no/such-set", "train")


def test_columns_are_inferred_or_named():
    assert column(ROWS, None, ("content", "text"), "text") == "text"
    assert column(ROWS, "label", ("text",), "text") == "label"
    with pytest.raises(DataError, match="no text column: looked for 'body'.*'text', 'label'"):
        column(ROWS, "body", ("text",), "text")
