"""Data files, good and bad."""

import bz2
import gzip
import lzma

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from sharetune.spaces.errors import ConfigError, DataError
from sharetune.trainers.data.tables import column, read_table
from sharetune.trainers.tasks.base import read_task

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
        (None, "no such data file", "relative to that file"),
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
    assert column(ROWS, "data.csv", None, ("content", "text"), "text") == "text"
    assert column(ROWS, "data.csv", "label", ("text",), "text") == "label"
    with pytest.raises(
        DataError, match=r"data.csv has no text column: looked for 'body'.*'text', 'label'"
    ):
        column(ROWS, "data.csv", "body", ("text",), "text")


def packed(folder, name, content):
    """A file of `content` (text), compressed as the suffix of its name says."""
    path = folder / name
    raw = content.encode()
    pack = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
    }
    path.write_bytes(pack.get(path.suffix, bytes)(raw))
    return str(path)


CSV = "text,label\none,a\nzwei,b\n"
LINES = '{"text": "one", "label": "a"}\n{"text": "zwei", "label": "b"}\n'
ARRAY = '[\n {"text": "one", "label": "a"},\n {"text": "zwei", "label": "b"}\n]\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv.gz", CSV),
        ("r.csv.bz2", CSV),
        ("r.csv.xz", CSV),
        ("r.CSV.ZST".lower(), CSV),
        ("r.jsonl.gz", LINES),
        ("r.ndjson", LINES),
        ("r.ndjson.zst", LINES),
        ("r.json", LINES),
        ("r.json", ARRAY),
        ("r.jsonl", ARRAY),
        ("r.json", "\ufeff" + ARRAY),
        ("r.jsonl", "\ufeff" + LINES),
        ("r.csv", "\ufeff" + CSV),
        ("r.tsv", "\ufeff" + CSV.replace(",", "\t")),
        ("r.csv", CSV.replace("\n", "\r\n")),
        ("r.csv", CSV.replace("\n", "\r")),
        ("r.csv", "\n" + CSV.replace("one", "one").replace("\nz", "\n\n   \nz")),
        ("r.jsonl", LINES.replace("\n", "\r\n\r\n")),
        ("r.JSONL", LINES),
    ],
)
def test_files_of_the_same_rows(tmp_path, name, content):
    assert read_table(packed(tmp_path, name, content), "train").to_dict("list") == {
        "text": ["one", "zwei"],
        "label": ["a", "b"],
    }


@pytest.mark.parametrize("name", ["r.txt", "r.txt.gz"])
def test_a_text_file_has_a_text_a_line(tmp_path, name):
    path = packed(tmp_path, name, "\ufeffone, two\r\n\r\n \n\u2028 three \x0b four\n")
    assert read_table(path, "train").to_dict("list") == {
        "text": ["one, two", "\u2028 three \x0b four"]
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", "text,label\nI liked it, really,good\n", "line 2 has 3 fields and the header 2"),
        ("r.csv", 'text,label\n"a\nb",x\n\na\n', "line 5 has 1 fields and the header 2"),
        ("r.tsv", "text\tlabel\na\tb\nc\td\t\n", "line 3 has 3 fields and the header 2"),
        ("r.csv", 'text,label\na,b\n"c" d,e\n', "line 3: ',' expected after '\"'"),
        ("r.csv", "text,label,text\na,b,c\n", "two columns are named 'text'"),
        ("r.csv", "text,label\na,b\nc,d\0\n", "NUL byte or half a letter in row 2, column 'label'"),
        ("r.json", '[{"text": "a"}, 3]', "row 2 is not an object: 3"),
        ("r.jsonl", '{"text": "a"}\n[1]\n', "line 2 is not an object"),
        ("r.jsonl", '{"text": "a"}\n{"text": \n', "cannot be read as JSONL: line 2: "),
        ("r.jsonl", '{"text": "a", "text": "b"}\n', "line 1: two keys are named 'text'"),
        ("r.jsonl", '{"text": "a\\u0000"}\n', "NUL byte or half a letter in row 1, column 'text'"),
        ("r.jsonl", '{"text": ["\\ud800"]}\n', "NUL byte or half a letter in row 1, column 'text'"),
        ("r.jsonl", "[" * 100_000, "cannot be read as JSONL"),
        ("r.json", "\n", "is empty"),
        ("r.txt", "", "is empty"),
        ("r.xlsx", "x", "is no known kind of file: .xlsx"),
        ("r", "x", "is no known kind of file: it has no suffix"),
        ("r.parquet", "x", "cannot be read as PARQUET"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, message):
    with pytest.raises(DataError) as caught:
        read_table(packed(tmp_path, name, content), "train")
    assert message in caught.value.message
    assert name in caught.value.message


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_file_that_is_none(tmp_path, suffix):
    (tmp_path / f"r.csv.{suffix}").write_bytes(b"text,label\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_table(str(tmp_path / f"r.csv.{suffix}"), "train")


def test_utf_16_is_named(tmp_path):
    (tmp_path / "r.csv").write_bytes(CSV.encode("utf-16"))
    with pytest.raises(DataError, match="is not UTF-8: line 1") as caught:
        read_table(str(tmp_path / "r.csv"), "train")
    assert "iconv -f utf-16" in caught.value.hint


def test_two_columns_of_one_name_in_parquet(tmp_path):
    table = pa.table([["a"], ["b"]], names=["text", "text"])
    pq.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(DataError, match="two columns are named 'text'"):
        read_table(str(tmp_path / "r.parquet"), "train")


def test_rows_that_were_chosen_with_pandas_have_no_column_more_in_parquet(tmp_path):
    ROWS.iloc[[1]].to_parquet(tmp_path / "r.parquet")
    found = read_table(str(tmp_path / "r.parquet"), "train")
    assert found.to_dict("list") == {"text": ["zwei"], "label": ["b"]}


def test_dates_and_whole_numbers_of_json_stay_as_they_are(tmp_path):
    rows = '{"date": "2026-01-31", "n": 123456789012345678901, "x": null}\n{"date": "1", "n": 1}\n'
    found = read_table(packed(tmp_path, "r.jsonl", rows), "train")
    assert found.to_dict("list") == {
        "date": ["2026-01-31", "1"],
        "n": [123456789012345678901, 1],
        "x": [None, None],
    }


def test_a_pattern_names_several_files_of_a_split(tmp_path):
    packed(tmp_path, "train-0.csv", "text,label\na,01\n")
    packed(tmp_path, "train-1.csv.gz", "label,text\n02,b\n")
    found = read_table(str(tmp_path / "train-*"), "train")
    assert found.to_dict("list") == {"text": ["a", "b"], "label": ["01", "02"]}
    packed(tmp_path, "train-2.csv", "text,class\na,b\n")
    with pytest.raises(DataError, match="train-2.csv has the columns 'text', 'class', and "):
        read_table(str(tmp_path / "train-*.csv"), "train")
    with pytest.raises(DataError, match="no data files match"):
        read_table(str(tmp_path / "test-*.csv"), "train")


def test_a_list_of_files_is_refused_with_the_pattern():
    with pytest.raises(ConfigError, match=r"a split is one file.* got \['a.csv', 'b.csv'\]"):
        read_task({"name": "text-generation", "train": ["a.csv", "b.csv"]})


def test_a_folder_s_files_of_text_keep_their_cells(own_cache, tmp_path):
    (tmp_path / "train-00.csv").write_text("text,label\n007,1.10\n")
    (tmp_path / "train-01.csv").write_text("text,label\nNA,true\n")
    assert read_table(str(tmp_path), "train").to_dict("list") == {
        "text": ["007", "NA"],
        "label": ["1.10", "true"],
    }


def test_folders_that_datasets_saved(own_cache, tmp_path):
    kinds = ClassLabel(names=["no", "yes"])
    features = Features({"text": Value("string"), "label": kinds})
    one = Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    one.save_to_disk(tmp_path / "one")
    DatasetDict({"train": one}).save_to_disk(tmp_path / "several")
    wanted = {"text": ["a", "b"], "label": ["yes", None]}
    assert read_table(str(tmp_path / "one"), "test").to_dict("list") == wanted
    assert read_table(str(tmp_path / "several"), "train").to_dict("list") == wanted
    with pytest.raises(DataError, match="no data set '.*several' with split 'test'"):
        read_table(str(tmp_path / "several"), "test")
    task = read_task({"name": "text-classification", "train": str(tmp_path / "one")})
    with pytest.raises(DataError, match=r"1 rows without label, .*'label': 2 \(null\)"):
        task.read()
