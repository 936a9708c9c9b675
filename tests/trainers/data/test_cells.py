"""Cells of data files: missing ones, numbers, times, and lists inside one cell."""

import json

import pandas as pd
import pytest

from sharetune.spaces.errors import DataError
from sharetune.trainers.data.cells import as_list, as_number, as_time, written_value
from sharetune.trainers.tasks.base import read_task

CLASSIFY = "text-classification"
TAG = "token-classification"
ANSWER = "question-answering"
NEXT = "next-item-recommendation"


def split(folder, name, content, suffix="csv", **keys):
    """The training frame and the facts of a task whose training file is its test file."""
    path = folder / f"t.{suffix}"
    path.write_text(content, "utf-8")
    test = {} if name == NEXT else {"test": str(path)}
    task = read_task({"name": name, "train": str(path), **test, **keys})
    frames, facts = task.read_splits()
    return frames["train"], facts


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("text,label\na,01\nb,02\nc,10\n", ("01", "02", "10")),
        ("text,label\na,1.10\nb,1.1\nc,1.2\n", ("1.1", "1.10", "1.2")),
        ("text,label\na,1e3\nb,1000\nc,1_000\n", ("1000", "1_000", "1e3")),
        ("text,label\na,true\nb,True\nc,TRUE\n", ("TRUE", "True", "true")),
        ("text,label\na,2026-01-01\nb,2026-1-1\n", ("2026-01-01", "2026-1-1")),
        ("text,label\na,+1\nb,1\nc,1.\n", ("+1", "1", "1.")),
        ("text,label\na,123456789012345678901\nb,1.0\n", ("1.0", "123456789012345678901")),
        ("text,label\na,none\nb,inf\n", ("inf", "none")),
    ],
)
def test_labels_of_a_csv_stay_as_they_are_written(tmp_path, content, labels):
    assert split(tmp_path, CLASSIFY, content)[1].labels == labels


def test_texts_of_a_csv_stay_as_they_are_written(tmp_path):
    found, _ = split(tmp_path, CLASSIFY, "text,label\n007,A\n7,B\nNA,A\n None ,A\n1.50,B\n")
    assert found["text"].tolist() == ["007", "7", "NA", " None ", "1.50"]


def test_train_and_test_are_read_alike(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,01\nb,true\nc,other\n")
    (tmp_path / "test.csv").write_text("text,label\na,01\nb,true\n")
    task = {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    frames, facts = read_task({"name": CLASSIFY, **task}).read_splits()
    assert facts.labels == ("01", "other", "true")
    assert frames["test"]["label"].tolist() == [0, 2]


def test_labels_that_the_study_names_are_found_in_a_csv(tmp_path):
    content = "text,label\na,true\nb,false\n"
    assert split(tmp_path, CLASSIFY, content, labels=["true", "false"])[1].labels == (
        "true",
        "false",
    )


def test_labels_of_json_are_those_that_a_csv_would_have(tmp_path):
    rows = lines(
        {"text": "a", "label": True}, {"text": "b", "label": "true"}, {"text": "c", "label": 1}
    )
    assert split(tmp_path, CLASSIFY, rows, "jsonl")[1].labels == ("1", "true")


def test_whole_numbers_next_to_nulls_stay_whole_in_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame(
        {"text": ["a", "b"], "label": pd.array([1, 2], "Int64"), "other": [None, 3]}
    )
    frame.to_parquet(path)
    task = read_task({"name": CLASSIFY, "train": str(path), "test": str(path)})
    assert task.read_splits()[1].labels == ("1", "2")


def test_items_stay_as_they_are_written(tmp_path):
    order = ["01", "1", "002", "2"]
    rows = [f"u{u},{i},{k}" for u in range(4) for k, i in enumerate(order[u:] + order[:u])]
    found, facts = split(tmp_path, NEXT, "\n".join(["user,item,time", *rows]))
    assert facts.items == 4
    # sorted as texts: 002, 01, 1, 2
    assert found["items"].tolist() == [[2, 3, 1], [3, 1, 4], [1, 4, 2], [4, 2, 3]]


@pytest.mark.parametrize(
    "spelling",
    [
        *("", " ", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "None"),
        *("NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    ],
)
def test_a_missing_label_is_refused_by_its_row(tmp_path, spelling):
    with pytest.raises(DataError) as caught:
        split(tmp_path, CLASSIFY, f"text,label\na,A\nb,B\nc,{spelling}\nd,A\ne,{spelling}\n")
    written = json.dumps(spelling)
    assert caught.value.message == (
        f"{tmp_path}/t.csv has 2 rows without label, the first at row 3, in the column 'label': "
        f"3 ({written}), 5 ({written})"
    )


def test_of_many_rows_without_a_label_the_first_are_named(tmp_path):
    with pytest.raises(DataError, match=r'1 \("NA"\), .*, 5 \("NA"\) and 4 more$') as caught:
        split(tmp_path, CLASSIFY, "text,label\n" + "a,NA\n" * 9)
    assert "kept where task.labels lists it" in caught.value.hint


def test_a_label_may_be_spelled_like_a_missing_one_if_the_study_names_it(tmp_path):
    content = "text,label\na,None\nb,NA\n"
    found, facts = split(tmp_path, CLASSIFY, content, labels=["None", "NA"])
    assert (facts.labels, found["label"].tolist()) == (("None", "NA"), [0, 1])
    with pytest.raises(DataError, match=r'1 rows without label.*: 2 \("NA"\)'):
        split(tmp_path, CLASSIFY, content, labels=["None", "Some"])


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            CLASSIFY,
            [{"text": "a", "label": "A"}, {"text": "b", "label": None}],
            r"label': 2 \(null\)",
        ),
        (CLASSIFY, [{"text": "a", "label": 0}, {"text": "c"}], r"label': 2 \(null\)"),
        (CLASSIFY, [{"text": "a", "label": float("nan")}], r"label': 1 \(null\)"),
        (CLASSIFY, [{"text": None, "label": "A"}], r"rows without text, the first at row 1"),
        (CLASSIFY, [{"text": "a", "label": ["A"]}], r"has list in the column 'label'.*in row 1"),
        (TAG, [{"tokens": None, "tags": None}], r"no list of tokens in row 1, column 'tokens'"),
        (TAG, [{"tokens": ["a"], "tags": None}], r"no list of tags in row 1, column 'tags'"),
        (TAG, [{"tokens": ["a", "b"], "tags": ["O", None]}], r"no list of tags in row 1"),
        (TAG, [{"tokens": ["a", None], "tags": ["O", "O"]}], r"no list of tokens in row 1"),
        (TAG, [{"tokens": ["a", ["b"]], "tags": ["O", "O"]}], r"no list of tokens in row 1"),
        (TAG, [{"tokens": ["a"], "tags": [" "]}], r"no list of tags in row 1"),
        (ANSWER, [{"question": "q", "context": "c", "answers": None}], r"no answer in row 1"),
        (
            ANSWER,
            [{"question": "q", "context": "c"} | {"answers": {"text": []}}],
            r"no answer in row 1",
        ),
        (
            ANSWER,
            [{"question": "q", "context": "c", "answers": {"text": [None]}}],
            r"no answer in row 1",
        ),
        (ANSWER, [{"question": "q", "context": "c", "answers": ""}], r"no answer in row 1"),
        (
            ANSWER,
            [{"question": "q", "context": "c", "answers": 3.5}],
            r"does not stand in its context",
        ),
        (NEXT, [{"user": 1, "item": None, "time": 1}], r"rows without item.*: 1 \(null\)"),
        (NEXT, [{"user": None, "item": 1, "time": 1}], r"rows without user.*: 1 \(null\)"),
        (NEXT, [{"user": 1, "item": 1, "time": None}], r"time is not a number or a date.*in row 1"),
    ],
)
def test_nulls_are_refused_by_their_row(tmp_path, name, rows, message):
    good = {
        CLASSIFY: {"text": "x", "label": "B"},
        TAG: {"tokens": ["x"], "tags": ["B-X"]},
        ANSWER: {"question": "q", "context": "a cat", "answers": "cat"},
        NEXT: {"user": 1, "item": 2, "time": 3},
    }
    with pytest.raises(DataError, match=message):
        split(tmp_path, name, lines(*rows, good[name]), "jsonl")


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        (CLASSIFY, {"text": ["a", "b"], "label": ["A", None]}, r"without label.*: 2 \(null\)"),
        (CLASSIFY, {"text": ["a", None], "label": ["A", "B"]}, "without text, the first at row 2"),
        (TAG, {"tokens": [["a"], None], "tags": [["O"], ["O"]]}, "no list of tokens in row 2"),
        (TAG, {"tokens": [["a"], ["b"]], "tags": [["O"], [None]]}, "no list of tags in row 2"),
        (
            ANSWER,
            {
                "question": ["q", "q"],
                "context": ["a cat", "a cat"],
                "answers": [{"text": ["cat"], "answer_start": [2]}, None],
            },
            "no answer in row 2",
        ),
        (NEXT, {"user": [1, 1], "item": [1, None], "time": [1, 2]}, r"without item.*: 2 \(null\)"),
    ],
)
def test_nulls_of_parquet_are_refused_by_their_row(tmp_path, name, columns, message):
    path = tmp_path / "t.parquet"
    pd.DataFrame(columns).to_parquet(path)
    test = {} if name == NEXT else {"test": str(path)}
    with pytest.raises(DataError, match=message):
        read_task({"name": name, "train": str(path), **test}).read_splits()


def test_a_csv_s_empty_tags_are_no_class(tmp_path):
    with pytest.raises(DataError, match="no list of tags in row 2, column 'tags': 'NaN'"):
        split(tmp_path, TAG, "tokens,tags\na,O\nb,NaN\n")
    found, _ = split(tmp_path, TAG, 'tokens,tags\na,O\nb,"[""NaN""]"\n')
    assert found["tags"].tolist() == [["O"], ["NaN"]]


def test_last_items_that_training_lacks(tmp_path):
    rows = [
        {"user": u, "item": i, "time": k}
        for u in range(3)
        for k, i in enumerate(["a", "b", f"x{u}"])
    ]
    with pytest.raises(DataError, match="no user whose last item is among those"):
        split(tmp_path, NEXT, lines(*rows), "jsonl")


@pytest.mark.parametrize(
    ("cell", "elements"),
    [
        ("a b", ["a", "b"]),
        ("12", ["12"]),
        (12, ["12"]),
        ("", []),
        ('["a", "b"]', ["a", "b"]),
        ("['a', 'b']", ["a", "b"]),
        ("['a' 'b']", ["a", "b"]),
        ("['a'\n 'b']", ["a", "b"]),
        ("['it\\'s', \"b's\"]", ["it's", "b's"]),
        ("['a, b', '[', ']']", ["a, b", "[", "]"]),
        ("[np.str_('a'), np.str_('b')]", ["a", "b"]),
        ("('a', 'b')", ["a", "b"]),
        ("['O', None]", ["O", None]),
        ("['O', nan]", ["O", None]),
        ("[0 3 0]", ["0", "3", "0"]),
        ("[]", []),
        ("[ sic ] he said", ["[", "sic", "]", "he", "said"]),
        ("[sic] he said", ["[sic]", "he", "said"]),
        ("he said [sic]", ["he", "said", "[sic]"]),
        ("[1] and [2]", ["[1]", "and", "[2]"]),
        ("[ sic ]", ["[", "sic", "]"]),
        ("( he said )", ["(", "he", "said", ")"]),
        ("[EU, rejects]", None),
        ("['a' 'b' ... 'y' 'z']", None),
        ("['a', 'b' 'c']", None),
        (None, None),
        ({"a": 1}, None),
    ],
)
def test_lists_in_cells(cell, elements):
    assert as_list(cell) == elements


@pytest.mark.parametrize(
    "answers",
    [
        '{"text": ["cat"], "answer_start": [2]}',
        "{'text': ['cat'], 'answer_start': [2]}",
        "{'text': array(['cat'], dtype=object), 'answer_start': array([2], dtype=int32)}",
        "{'text': array([np.str_('cat')], dtype='<U3'), 'answer_start': [np.int64(2)]}",
        "{'text': ['cat', ']), array(['], 'answer_start': None}",
        "[{'text': 'cat', 'answer_start': 2}]",
        '[{"text": "cat"}]',
        '["cat"]',
        "cat",
    ],
)
def test_answers_in_the_cells_of_a_csv(tmp_path, answers):
    path = tmp_path / "rows.csv"
    pd.DataFrame({"question": ["q"], "context": ["a cat"], "answers": [answers]}).to_csv(path)
    task = read_task({"name": ANSWER, "train": str(path), "test": str(path)})
    (row,) = task.read_splits()[0]["train"].to_dict("records")
    assert (row["texts"][0], row["start"]) == ("cat", 2)


def test_an_answer_may_begin_with_a_bracket(tmp_path):
    rows = lines({"question": "q", "context": "see [12] there", "answers": "[12]"})
    found, _ = split(tmp_path, ANSWER, rows, "jsonl")
    assert (found["texts"][0], found["start"][0]) == (["[12]"], 4)
    for text in ("{braces} are kept", "{[1]: 2}", "{open('x')}", "[x for x in y]", "{**{}}"):
        assert written_value(text) == text


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        *(("1", 1.0), (" -1.5e3 ", -1500.0), (".5", 0.5), (2, 2.0), ("1,5", None), ("1_000", None)),
        *(("nan", None), ("inf", None), ("1e999", None), ("", None), (True, None), (None, None)),
        *(("\u0663", None), ([1], None), (10**400, None)),
    ],
)
def test_numbers(cell, number):
    assert as_number(cell) == number


def test_a_cell_that_is_no_number_is_named_with_its_row(tmp_path):
    with pytest.raises(
        DataError, match="1 rows whose label is not a number, the first '1,5' in row 2"
    ):
        split(tmp_path, CLASSIFY, 'text,label\na,1\nb,"1,5"\n', regression=True)
    found, _ = split(tmp_path, CLASSIFY, "text,label\na,01\nb,2.50\n", regression=True)
    assert found["label"].tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (["10", "9", "8.5"], [3, 2, 1]),
        (["1700000000000000002", "1700000000000000001", "1700000000000000000"], [3, 2, 1]),
        (["2026-01-31", "2026-01-30 23:59", "2025-12-31T00:00:01"], [3, 2, 1]),
        (["2026-01-01T00:00+02:00", "2025-12-31T22:00:01Z", "2026-01-01T00:00Z"], [1, 2, 3]),
    ],
)
def test_items_are_ordered_by_numbers_or_by_dates(tmp_path, times, order):
    rows = [
        {"user": user, "item": f"i{item}", "time": time}
        for user in (1, 2)
        for item, time in zip((1, 2, 3), times, strict=True)
    ]
    rows += [
        {"user": user, "item": f"i{item}", "time": times[0]}
        for user in (3, 4)
        for item in (3, 1, 2)
    ]
    found, _ = split(tmp_path, NEXT, lines(*rows), "jsonl")
    assert found["items"][0] == order[:2]


def test_times_of_two_kinds_cannot_be_ordered(tmp_path):
    content = "user,item,time\nu,a,3\nu,b,2026-01-01\n"
    with pytest.raises(DataError, match="times that cannot be compared.*'2026-01-01' in row 2"):
        split(tmp_path, NEXT, content)
    with pytest.raises(DataError, match="the first 'soon' in row 2"):
        split(tmp_path, NEXT, content.replace("2026-01-01", "soon"))
    assert as_time("31.1.2026") is None
