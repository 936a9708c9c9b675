"""Token classification: one label for each word of a text."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedModel,
)

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores
from sharetune.trainers.data.cells import MISSING_SPELLINGS, as_list, as_text, is_null
from sharetune.trainers.data.reader_fit import with_places
from sharetune.trainers.data.tables import column
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task
from sharetune.trainers.tasks.metrics import by_class, span_f1
from sharetune.trainers.tasks.prediction import predict_rows
from sharetune.trainers.tasks.text_classification import named

WORD_COLUMNS = ("tokens", "words")
"""Names by which the column of words is found, the first that the table has."""

TAG_COLUMNS = ("tags", "ner_tags", "labels", "pos_tags")
"""Names by which the column of tags is found, the first that the table has."""

UNCOUNTED = -100
"""Label that PyTorch's and the library's losses leave out: a word's further tokens, padding."""


@TASKS.register("token-classification")
class TokenClassification(Task):
    """one label for every word, by encoders: F1 of whole entities (BIO), accuracy of words

    `train` and `test` are tables (JSON Lines, Parquet, CSV) or the hub name of a data set; `tokens`
    and `tags` name two columns of lists of equal length, in a CSV written as words between blanks
    or as JSON, pandas or numpy write lists.
    Tags such as B-LOC and I-LOC mark entities. A word's label stands at its first token; words
    beyond the recipe's `max_length`, and those that become no token, count as O.
    """

    auto: ClassVar[Any] = AutoModelForTokenClassification
    fitting: ClassVar[tuple[str, ...]] = ("label_smoothing",)
    layout: ClassVar[int] = 2
    pads: ClassVar[bool] = True
    reading: ClassVar[dict[str, Any]] = {"add_prefix_space": True}

    tokens: str | None = Field(
        None,
        description="column of lists of words; null: the first of the usual names, such as "
        "`tokens`",
    )
    tags: str | None = Field(
        None,
        description="column of lists of tags, one for each word; null: the first of the usual "
        "names, such as `tags`",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("entity_f1", "accuracy")

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        train, test = self.frames(self._columns)
        labels = sorted(
            {tag for tags in train["tags"] for tag in tags}, key=lambda t: (t != "O", t)
        )
        unknown = sorted({tag for tags in test["tags"] for tag in tags} - set(labels))
        if unknown:
            raise DataError(
                f"{self.test_source} has tags that {self.train} does not have: "
                f"{', '.join(map(repr, unknown[:5]))}",
                f"known tags: {', '.join(map(repr, labels[:20]))}",
            )
        for frame in (train, test):
            frame["numbers"] = [[labels.index(tag) for tag in tags] for tags in frame["tags"]]
        return train, test, DataFacts(labels=tuple(labels))

    def head(self, facts: DataFacts) -> dict[str, Any]:
        return named(facts)

    def texts(self, frame: pd.DataFrame) -> Iterable[str]:
        return frame["tokens"].map(" ".join)

    def reader(self, model: str) -> Any:
        return with_places(super().reader(model))

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        words = [list(row) for row in frame["tokens"]]
        read = reader(words, is_split_into_words=True, truncation=True, max_length=max_length)
        firsts = [_first_tokens(read.word_ids(i)) for i in range(len(words))]
        labels = [
            [UNCOUNTED if word is None else int(numbers[word]) for word in first]
            for first, numbers in zip(firsts, frame["numbers"], strict=True)
        ]
        truth = [
            {"tags": list(tags), "words": [word for word in first if word is not None]}
            for first, tags in zip(firsts, frame["tags"], strict=True)
        ]
        return {**read, "labels": labels, "truth": truth}

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return DataCollatorForTokenClassification(reader)

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        found = predict_rows(model, data=split.rows, collate=split.collate)
        names = model.config.id2label
        return [
            [names[int(row[i].argmax())] for i, label in enumerate(wanted) if label != UNCOUNTED]
            for row, wanted in zip(found, split.rows["labels"], strict=True)
        ]

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        wanted = [truth["tags"] for truth in labels]
        tagged = [
            _spread(tags, truth["words"], len(truth["tags"]))
            for tags, truth in zip(predictions, labels, strict=True)
        ]
        pairs = [
            pair for both in zip(tagged, wanted, strict=True) for pair in zip(*both, strict=True)
        ]
        numbers = {tag: number for number, tag in enumerate(facts.labels)}
        said = [numbers.get(tag, UNCOUNTED) for tag, _ in pairs]
        true = [numbers[tag] for _, tag in pairs]
        metrics = {
            "entity_f1": span_f1(tagged, wanted),
            "accuracy": sum(one == other for one, other in pairs) / len(pairs),
        }
        return Scores(metrics, *by_class(true, said, facts.labels))

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        words = frame[column(frame, source, self.tokens, WORD_COLUMNS, "tokens")]
        tags = frame[column(frame, source, self.tags, TAG_COLUMNS, "tags")]
        found = pd.DataFrame(
            {"tokens": _lists(words, source, "token"), "tags": _lists(tags, source, "tag")}
        )
        for row, (one, other) in enumerate(zip(found["tokens"], found["tags"], strict=True), 1):
            if len(one) != len(other) or not one:
                raise DataError(
                    f"{source} has {len(one)} tokens and {len(other)} tags in row {row}",
                    "every row needs as many tags as tokens, and at least one",
                )
        return found


def _lists(values: pd.Series, source: str, what: str) -> pd.Series:
    """Return the lists of words or tags in the cells of a column.

    Raises :class:`DataError` that names the first row without a list, or with an element missing.
    """
    found = [_words(cell, what) for cell in values]
    for row, (cell, words) in enumerate(zip(values, found, strict=True), 1):
        if words is None:
            raise DataError(
                f"{source} has no list of {what}s in row {row}, column {values.name!r}: "
                f"{str(cell)[:60]!r}",
                "lists are words between blanks, or as JSON writes them, without null, such as "
                '["a", "b"]',
            )
    return pd.Series(found, index=values.index, dtype=object)


def _words(cell: object, what: str) -> list[str] | None:
    """Return the words in a cell; None where there is no list, or an element is missing."""
    listed = as_list(cell)
    if listed is None:
        return None
    words = ["" if is_null(word) else as_text(word) for word in listed]
    between_blanks = isinstance(cell, str) and listed == cell.split()
    missing = MISSING_SPELLINGS if what == "tag" and between_blanks else {""}
    kept = [word for word in words if word is not None and word.strip() not in missing]
    return kept if len(kept) == len(words) else None


def _first_tokens(words: Sequence[int | None]) -> list[int | None]:
    """Return the word of each token that is a word's first, and None for the others."""
    before = [None, *words[:-1]]
    return [None if word == last else word for word, last in zip(words, before, strict=True)]


def _spread(tags: Sequence[str], words: Sequence[int], count: int) -> list[str]:
    """Return `count` tags, those given at the places `words`, and O for words without a token."""
    found = ["O"] * count
    for place, tag in zip(words, tags, strict=True):
        found[place] = tag
    return found
