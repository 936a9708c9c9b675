"""Data files, good and bad."""

import pandas as pd
import pytest

from spaces.errors import DataError
from trainers.tables import column, read_table

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


def test_an_unknown_data_set_offline():
    with pytest.raises(DataError, match="no data set 'no/such-set' with split 'train'"):
        read_table("no/such-set", "train")


def test_columns_are_inferred_or_named():
    assert column(ROWS, None, ("content", "text"), "text") == "text"
    assert column(ROWS, "label", ("text",), "text") == "label"
    with pytest.raises(DataError, match="no text column: looked for 'body'.*'text', 'label'"):
        column(ROWS, "body", ("text",), "text")
