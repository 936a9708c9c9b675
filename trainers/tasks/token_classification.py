"""One label for every word of a text."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import pandas as pd
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedModel,
)

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores
from sharetune.trainers.data.tables import column
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task
from sharetune.trainers.tasks.metrics import by_class, span_f1
from sharetune.trainers.tasks.prediction import predict_rows
from sharetune.trainers.tasks.text_classification import named

WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("tags", "ner_tags", "labels", "pos_tags")
UNCOUNTED = -100


@TASKS.register("token-classification")
class TokenClassification(Task):
    """one label for every word, by encoders: F1 of whole entities (BIO), accuracy of words

    `train` and `test` are tables (JSON Lines, Parquet, CSV) or the hub name of a data set; `tokens`
    and `tags` name two columns of lists of equal length, in a CSV written as words between blanks.
    Tags such as B-LOC and I-LOC mark entities. A word's label stands at its first token; words
    beyond the recipe's `max_length` count as O.
    """

    auto: ClassVar[Any] = AutoModelForTokenClassification
    fitting: ClassVar[tuple[str, ...]] = ("label_smoothing",)

    tokens: str | None = None
    tags: str | None = None

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
                f"{self.test or self.train} has tags that training lacks: "
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

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        words = [list(row) for row in frame["tokens"]]
        read = reader(words, is_split_into_words=True, truncation=True, max_length=max_length)
        labels = [
            _at_first_tokens(read.word_ids(i), numbers)
            for i, numbers in enumerate(frame["numbers"])
        ]
        truth = [list(row) for row in frame["tags"]]
        return {**read, "labels": labels, "truth": truth}

    def collator(self, reader: Any, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return DataCollatorForTokenClassification(reader)

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        found = predict_rows(model, data=split.rows, collate=split.collate)
        names = model.config.id2label
        return [
            [names[int(row[i].argmax())] for i, label in enumerate(wanted) if label != UNCOUNTED]
            for row, wanted in zip(found, split.rows["labels"], strict=True)
        ]

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        told = [
            [*tags, *["O"] * (len(truth) - len(tags))]
            for tags, truth in zip(predictions, labels, strict=True)
        ]
        pairs = [
            pair for both in zip(told, labels, strict=True) for pair in zip(*both, strict=True)
        ]
        numbers = {tag: number for number, tag in enumerate(facts.labels)}
        said = [numbers.get(tag, UNCOUNTED) for tag, _ in pairs]
        true = [numbers[tag] for _, tag in pairs]
        metrics = {
            "entity_f1": span_f1(told, labels),
            "accuracy": sum(one == other for one, other in pairs) / len(pairs),
        }
        return Scores(metrics, *by_class(true, said, facts.labels))

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        words = column(frame, self.tokens, WORD_COLUMNS, "tokens")
        tags = column(frame, self.tags, TAG_COLUMNS, "tags")
        found = pd.DataFrame(
            {"tokens": frame[words].map(_listed), "tags": frame[tags].map(_listed)}
        )
        for row, (one, other) in enumerate(zip(found["tokens"], found["tags"], strict=True), 1):
            if len(one) != len(other) or not one:
                raise DataError(
                    f"{source} has {len(one)} tokens and {len(other)} tags in row {row}",
                    "every row needs as many tags as tokens, and at least one",
                )
        return found


def _listed(value: Any) -> list[str]:
    """A list of words: as it is, as JSON, or split at blanks."""
    if isinstance(value, str):
        return list(map(str, json.loads(value))) if value.startswith("[") else value.split()
    return [str(word) for word in value]


def _at_first_tokens(words: Sequence[int | None], numbers: Sequence[int]) -> list[int]:
    before = [None, *words[:-1]]
    return [
        int(numbers[word]) if word is not None and word != last else UNCOUNTED
        for word, last in zip(words, before, strict=True)
    ]
