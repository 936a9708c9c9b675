"""Tables read as streams: the same cells as whole tables, in parts, with nothing read too far."""

import gzip
import json
import random

import pandas as pd
import pyarrow as pa
import pytest

from sharetune.spaces.errors import DataError
from sharetune.trainers.data import streams
from sharetune.trainers.data.streams import (
    HeldOut,
    checked,
    read_parts,
    remaining,
    rows_of,
    streamed,
    write_parts,
)
from sharetune.trainers.data.tables import read_table

CELLS = ["007", "1.0", "true", "NA", "null", 'a "b"\n, c', "é😀", " x "]


def table(folder, name):
    path = folder / name
    frame = pd.DataFrame({"text": CELLS, "n": [str(i) for i in range(len(CELLS))]})
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif ".json" in name:
        rows = "\n".join(json.dumps(row) for row in frame.to_dict("records"))
        path.write_bytes(gzip.compress(rows.encode()) if name.endswith(".gz") else rows.encode())
    elif name.endswith(".txt"):
        path.write_text("one\n\n  two\nthree\n")
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    return str(path)


@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.jsonl", "t.jsonl.gz", "t.csv.gz", "t.parquet", "t.txt"]
)
def test_a_stream_has_the_cells_of_the_whole_table(tmp_path, name):
    path = table(tmp_path, name)
    found = pd.concat([*streamed(path, "train")], ignore_index=True)
    assert found.to_dict("list") == read_table(path, "train").to_dict("list")


def test_several_files_and_a_folder_that_was_saved(tmp_path):
    import datasets

    table(tmp_path, "a-1.csv"), table(tmp_path, "a-2.csv")
    (found,) = streamed(str(tmp_path / "a-*.csv"), "train")
    assert found["text"].tolist() == CELLS * 2
    datasets.Dataset.from_dict({"text": CELLS}).save_to_disk(tmp_path / "saved")
    (found,) = streamed(str(tmp_path / "saved"), "train", most=3)
    assert found["text"].tolist() == CELLS[:3]


def test_no_more_is_read_than_asked_for(tmp_path, monkeypatch):
    read = []

    def rows(source, split):
        for number in range(10**9):
            read.append(number)
            yield {"text": "word"}

    monkeypatch.setattr(streams, "_rows", rows)
    monkeypatch.setattr(streams, "PART_ROWS", 4)
    parts = [len(part) for part in streamed("anything", "train", most=10)]
    assert (parts, len(read)) == ([4, 4, 2], 10)


def test_a_part_ends_with_many_letters(monkeypatch):
    monkeypatch.setattr(streams, "_rows", lambda *_: iter([{"text": "x" * 60}] * 5))
    monkeypatch.setattr(streams, "PART_LETTERS", 100)
    assert [len(part) for part in streamed("anything", "train")] == [2, 2, 1]


def test_what_is_written_in_parts_comes_back(tmp_path):
    parts = [pd.DataFrame({"text": CELLS[:3]}), pd.DataFrame({"text": CELLS[3:]})]
    assert write_parts(iter(parts), tmp_path / "t.parquet") == len(CELLS)
    assert pd.concat([*read_parts(tmp_path / "t.parquet")])["text"].tolist() == CELLS


def test_what_was_read_of_a_file_does_not_stay_in_memory(tmp_path):
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    texts = ["".join(draw.choices(letters, k=1000)) for _ in range(100)]
    parts = (pd.DataFrame({"text": texts}) for _ in range(40))  # 4 MB in 40 groups of 0.1 MB
    file = tmp_path / "t.parquet"
    write_parts(parts, file)
    assert file.stat().st_size > 2 * 2**20
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in rows_of(file)]
    assert len(held) == 4000 and max(held) < 2 * 2**20


def test_rows_that_are_held_out_are_the_ones_that_do_not_remain():
    def parts():
        numbers = [*range(23)]
        yield from (pd.DataFrame({"n": numbers[i : i + 4]}) for i in range(0, 23, 4))

    def numbers(found):
        return [n for part in found for n in part["n"]]

    test, validation = HeldOut(5, 3), HeldOut(2, 2)
    assert numbers(test.taken(parts())) == [4, 9, 14]
    left = [n for n in range(23) if n not in (4, 9, 14)]
    assert numbers(remaining(parts(), [test])) == left
    assert numbers(validation.taken(remaining(parts(), [test]))) == [1, 3]
    assert numbers(remaining(parts(), [test, validation])) == [n for n in left if n not in (1, 3)]


def test_errors_count_rows_from_the_part_s_first():
    def refuse(part):
        if "bad" in list(part["text"]):
            raise DataError("a bad row 1", "mend it")
        return part

    parts = [pd.DataFrame({"text": ["a", "b"]}), pd.DataFrame({"text": ["bad"]})]
    with pytest.raises(DataError, match=r"a bad row 1 \(rows counted after the first 2\)"):
        list(checked(iter(parts), "t", refuse))
    with pytest.raises(DataError, match="a bad row 1$"):
        list(checked(iter(parts[1:]), "t", refuse))
    with pytest.raises(
        DataError, match="t has a NUL byte or half a letter in row 1, column 'text'"
    ):
        list(checked(iter([pd.DataFrame({"text": ["a\0b"]})]), "t", refuse))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "no such data file: "),
        ("t.csv", "", "is empty"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "cannot be read as a stream: "),
        ("t.jsonl", '{"a": 1}\n{"a": \n', "cannot be read as a stream: "),
        ("folder", None, "no such data file or folder: "),
    ],
)
def test_what_cannot_be_read_is_one_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        list(streamed(str(tmp_path / name), "train"))
