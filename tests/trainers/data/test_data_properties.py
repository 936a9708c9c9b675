"""Rows of random data files arrive as they are written, or one error names file, row and column."""

import csv
import gzip
import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharetune.spaces.errors import DataError
from sharetune.trainers.data.tables import read_table
from sharetune.trainers.tasks.base import read_task

EXAMPLES = settings(max_examples=int(os.environ.get("SHARETUNE_EXAMPLES", "80")), deadline=None)
"""Random files a test, of which the environment may ask for more."""

MISSING = (
    *("", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "None", "NaN"),
    *("nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
ODD = (
    *("01", "1", "1.0", "1.10", "1e5", "1_000", "true", "True", "yes", "2026-01-31", "inf"),
    *(" a", "a ", "a,b", 'say "so"', "a\tb", "a\nb", "a\rb", "a\r\nb", "[ sic ]", "{a}", "[1]"),
    *(
        "\ufeff",
        "a\u2028b",
        "a\x0bb",
        "a\x85b",
        "\x1a",
        "'",
        "\\",
        "#",
        "-",
        "=1+1",
        "\U0001f600",
        "é",
    ),
)
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
GOOD = st.one_of(st.sampled_from(ODD), PLAIN.filter(lambda text: text.strip()))
"""Texts that a cell of any kind may hold."""
BAD = st.sampled_from([*MISSING, " ", "\t", "\u2028", "\x85", "a\0b"])
CELL = st.one_of(GOOD, GOOD, GOOD, BAD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def delimited(rows, delimiter=","):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([list(rows[0]), *[row.values() for row in rows]])
    return out.getvalue().encode()


def parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WRITERS = {
    "csv": delimited,
    "tsv": lambda rows: delimited(rows, "\t"),
    "jsonl": lines,
    "ndjson": lambda rows: b"\xef\xbb\xbf" + lines(rows),
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "parquet": parquet,
    "csv.gz": lambda rows: gzip.compress(delimited(rows)),
    "jsonl.zst": lambda rows: pa.compress(lines(rows), "zstd", asbytes=True),
}


def written(folder, kind, rows):
    path = folder / f"rows.{kind}"
    path.write_bytes(WRITERS[kind](rows))
    return path


def read(name, path, **keys):
    """The training rows, the labels and None, or None, None and the error."""
    task = read_task({"name": name, "train": str(path), "test": str(path), **keys})
    try:
        frames, facts = task.read_splits()
    except DataError as error:
        return None, None, error.message
    return frames["train"], facts.labels, None


def first(cells, is_bad):
    """The first row (from 1) whose cell is bad, or None."""
    return next((row for row, cell in enumerate(cells, 1) if is_bad(cell)), None)


@EXAMPLES
@given(st.sampled_from([*WRITERS]), st.lists(st.tuples(CELL, CELL), min_size=2, max_size=6))
def test_texts_and_labels(folder, kind, pairs):
    path = written(folder, kind, [{"text": text, "label": label} for text, label in pairs])
    frame, labels, error = read("text-classification", path)
    texts, named = zip(*pairs, strict=True)
    cut = {"text": first(texts, lambda t: "\0" in t), "label": first(named, lambda t: "\0" in t)}
    missing = {
        "text": first(texts, lambda text: not text.strip()),
        "label": first(named, lambda label: label.strip() in MISSING),
    }
    for broken in (cut, missing):
        for column, row in broken.items():
            if row is not None:
                assert error is not None
                assert path.name in error and f"row {row}" in error and f"'{column}'" in error
                return
    if len(set(named)) < 2:
        assert error == f"{path} has one class only: {named[0]!r}"
        return
    assert error is None
    assert frame["text"].tolist() == list(texts)
    assert [labels[number] for number in frame["label"]] == list(named)


NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)


@EXAMPLES
@given(
    st.sampled_from([*WRITERS]),
    st.lists(
        st.one_of(NUMBERS, NUMBERS, st.sampled_from([*MISSING, "1,5", "inf", "x", "1_0"])),
        min_size=1,
    ),
)
def test_numbers(folder, kind, cells):
    path = written(folder, kind, [{"text": "a", "label": cell} for cell in cells])
    frame, _, error = read("text-classification", path, regression=True)
    row = first(cells, lambda cell: cell in {*MISSING, "1,5", "inf", "x", "1_0"})
    if row is None:
        assert frame["label"].tolist() == [float(cell) for cell in cells]
    else:
        assert f"the first {cells[row - 1]!r} in row {row}" in error


LISTS = {
    "json": json.dumps,
    "pandas": repr,
    "tuple": lambda words: repr(tuple(words)) if len(words) > 1 else repr(words),
    "numpy": lambda words: str(np.array(words, dtype=object)),
    "list": lambda words: words,
}


@EXAMPLES
@given(
    st.sampled_from([*WRITERS]),
    st.sampled_from([*LISTS]),
    st.lists(st.lists(st.tuples(GOOD, GOOD), min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_lists_of_words(folder, kind, way, sentences):
    if way == "list" and kind.startswith(("csv", "tsv")):
        way = "pandas"
    rows = [
        {"tokens": LISTS[way]([w for w, _ in pairs]), "tags": LISTS[way]([t for _, t in pairs])}
        for pairs in sentences
    ]
    frame, _, error = read("token-classification", written(folder, kind, rows))
    assert error is None
    found = [list(zip(row["tokens"], row["tags"], strict=True)) for row in frame.to_dict("records")]
    assert found == sentences


WORD = GOOD.map(lambda text: "".join(text.split())).filter(
    lambda word: word and word not in MISSING and word[0] not in "[(" and "\ufeff" not in word
)


@EXAMPLES
@given(st.sampled_from(["csv", "tsv", "jsonl"]), st.lists(WORD, min_size=1, max_size=5))
def test_words_between_blanks(folder, kind, words):
    rows = [{"tokens": " ".join(words), "tags": " ".join(words)}]
    frame, _, error = read("token-classification", written(folder, kind, rows))
    assert error is None
    assert [*frame["tokens"][0]] == [*frame["tags"][0]] == words


ANSWERS = {
    "text": lambda text, start: text,
    "json": lambda text, start: json.dumps({"text": [text], "answer_start": [start]}),
    "pandas": lambda text, start: repr({"text": [text], "answer_start": [start]}),
    "numpy": lambda text, start: repr(
        {"text": np.array([text], dtype=object), "answer_start": [start]}
    ),
    "pairs": lambda text, start: repr([{"text": text, "answer_start": start}]),
}


@EXAMPLES
@given(st.sampled_from([*WRITERS]), st.sampled_from([*ANSWERS]), GOOD, GOOD, GOOD)
def test_answers(folder, kind, way, before, answer, after):
    context = f"{before}{answer}{after}"
    row = {"question": "q", "context": context, "answers": ANSWERS[way](answer, len(before))}
    frame, _, error = read("question-answering", written(folder, kind, [row]))
    assert error is None
    assert frame["texts"][0] == [answer]
    start = context.find(answer) if way == "text" else len(before)
    assert (frame["context"][0], frame["start"][0]) == (context, start)


@EXAMPLES
@given(st.sampled_from([*WRITERS]), st.lists(st.tuples(GOOD, GOOD), min_size=1), st.data())
def test_damaged_files_are_read_or_refused(folder, kind, pairs, data):
    path = written(folder, kind, [{"text": text, "label": label} for text, label in pairs])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        piece = data.draw(
            st.sampled_from([b"", b'"', b",", b"\n", b"\0", b"\xff", b"[", b"}", b"1"])
        )
        content[place : place + data.draw(st.integers(0, 3))] = piece
    path.write_bytes(content)
    try:
        found = read_table(str(path), "train")
    except DataError as error:
        assert str(path) in error.message
    else:
        assert len(found) > 0


@EXAMPLES
@given(st.sampled_from([*WRITERS]), st.lists(st.tuples(CELL, CELL), min_size=2, max_size=6))
def test_pairs_of_texts(folder, kind, pairs):
    path = written(folder, kind, [{"en": one, "fr": other} for one, other in pairs])
    frame, _, error = read("translation", path)
    sides = dict(zip(("en", "fr"), zip(*pairs, strict=True), strict=True))
    for is_bad in (lambda text: "\0" in text, lambda text: not text.strip()):
        broken = {name: first(cells, is_bad) for name, cells in sides.items()}
        for column, row in broken.items():
            if row is not None:
                assert error is not None
                assert path.name in error and f"row {row}" in error and f"'{column}'" in error
                return
    assert error is None
    assert frame[["source", "target"]].to_numpy().tolist() == [list(pair) for pair in pairs]


WHO = st.sampled_from(["u", "01", "1", "1.0", "true", " v"])
WHAT = st.sampled_from(["a", "1", "01", "1.10", "1.1", "é", "b,c"])


@EXAMPLES
@given(
    st.sampled_from([*WRITERS]),
    st.lists(st.tuples(WHO, WHAT, st.integers(0, 3)), min_size=6, max_size=14),
)
def test_interactions(folder, kind, given_rows):
    rows = [{"user": user, "item": item, "time": str(time)} for user, item, time in given_rows]
    path = written(folder, kind, rows)
    task = read_task({"name": "next-item-recommendation", "train": str(path)})
    histories = {}
    for user, item, _ in sorted(given_rows, key=lambda row: row[2]):
        histories.setdefault(user, []).append(item)
    long = [histories[user] for user in sorted(histories) if len(histories[user]) >= 3]
    known = sorted({item for items in long for item in items[:-1]})
    asked = [items for items in long if items[-1] in known]
    try:
        train, test, facts = task.read()
    except DataError as error:
        assert not asked and path.name in error.message
        return
    assert facts.items == len(known)
    assert [[known[n - 1] for n in items] for items in train["items"]] == [i[:-1] for i in long]
    assert [known[n - 1] for n in test["next"]] == [items[-1] for items in asked]
