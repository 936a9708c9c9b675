"""The words of a passage that answer a question."""

import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores
from sharetune.trainers.data.tables import column, filled
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task

ARTICLES = re.compile(r"\b(a|an|the)\b")
LONGEST_ANSWER = 30
BATCH = 32


@TASKS.register("question-answering")
class QuestionAnswering(Task):
    """the words of a passage that answer a question, by encoders: exact match and F1 (SQuAD)

    `train` and `test` are tables or the hub name of a data set with the columns `question`,
    `context` and `answers`, the last as SQuAD has it (``{"text": [...], "answer_start": [...]}``)
    or one text that stands in the context. A context is cut to the recipe's `max_length`; an answer
    beyond it cannot be found.
    """

    auto: ClassVar[Any] = AutoModelForQuestionAnswering

    question: str | None = None
    context: str | None = None
    answers: str | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("answer_f1", "exact_match")

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        return *self.frames(self._columns), DataFacts()

    def texts(self, frame: pd.DataFrame) -> Iterable[str]:
        return pd.concat([frame["question"], frame["context"].drop_duplicates()])

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        read = reader(
            frame["question"].tolist(),
            frame["context"].tolist(),
            truncation="only_second",
            max_length=max_length,
            return_offsets_mapping=True,
        )
        offsets = [
            [
                span if part == 1 else (0, 0)
                for span, part in zip(spans, read.sequence_ids(i), strict=True)
            ]
            for i, spans in enumerate(read.pop("offset_mapping"))
        ]
        places = [
            _token_span(spans, start, start + len(texts[0]))
            for spans, texts, start in zip(offsets, frame["texts"], frame["start"], strict=True)
        ]
        truth = [
            json.dumps({"context": context, "offsets": spans, "texts": list(texts)})
            for context, spans, texts in zip(frame["context"], offsets, frame["texts"], strict=True)
        ]
        starts, ends = zip(*places, strict=True)
        return {
            **read,
            "start_positions": list(starts),
            "end_positions": list(ends),
            "truth": truth,
        }

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        loader = torch.utils.data.DataLoader(split.rows, batch_size=BATCH, collate_fn=split.collate)
        model.eval()
        found: list[tuple[Tensor, Tensor]] = []
        for batch in loader:
            with torch.no_grad():
                told = model(**{key: value.to(model.device) for key, value in batch.items()})
            found += zip(told.start_logits.cpu(), told.end_logits.cpu(), strict=True)
        return found

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        exact = partly = 0.0
        for (starts, ends), written in zip(predictions, labels, strict=True):
            row = json.loads(written)
            told = best_answer(starts, ends, row["offsets"], row["context"])
            exact += max(float(normal(told) == normal(text)) for text in row["texts"])
            partly += max(words_f1(told, text) for text in row["texts"])
        return Scores({"answer_f1": partly / len(labels), "exact_match": exact / len(labels)})

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        context = filled(
            frame[column(frame, self.context, ("context",), "context")], source, "text"
        )
        question = column(frame, self.question, ("question",), "question")
        answers = frame[column(frame, self.answers, ("answers", "answer"), "answers")]
        found = [
            _answers(value, passage, source, row)
            for row, (value, passage) in enumerate(zip(answers, context, strict=True), 1)
        ]
        return pd.DataFrame(
            {
                "question": filled(frame[question], source, "question"),
                "context": context,
                "texts": [texts for texts, _ in found],
                "start": [start for _, start in found],
            }
        )


def _answers(value: Any, context: str, source: str, row: int) -> tuple[list[str], int]:
    """All accepted texts, and where in `context` the first of them starts."""
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("{") else {"text": [value]}
    texts = [str(text) for text in value.get("text", ())]
    starts = list(value.get("answer_start", ())) or [context.find(text) for text in texts]
    if not texts or context[int(starts[0]) :][: len(texts[0])] != texts[0] or starts[0] < 0:
        raise DataError(
            f"{source} has an answer in row {row} that does not stand in its context: "
            f"{(texts or [''])[0]!r}",
            "extractive answers are pieces of the context, letter for letter",
        )
    return texts, int(starts[0])


def _token_span(offsets: Sequence[Any], start: int, end: int) -> tuple[int, int]:
    """First and last token of the letters start..end; (0, 0) where they were cut off."""
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    return (inside[0], inside[-1]) if inside else (0, 0)


def best_answer(
    starts: Tensor,
    ends: Tensor,
    offsets: Sequence[Any],
    context: str,
    longest: int = LONGEST_ANSWER,
) -> str:
    """The piece of `context` whose first and last token have the largest sum of logits, at most
    `longest` tokens; `offsets` are the letters of each token, (0, 0) outside the context."""
    inside = [i for i, (a, b) in enumerate(offsets) if b > a]
    if not inside:
        return ""
    first, last = inside[0], inside[-1] + 1
    sums = starts[first:last, None] + ends[None, first:last]
    allowed = torch.ones_like(sums).triu() - torch.ones_like(sums).triu(longest)
    best = int(sums.masked_fill(allowed == 0, -torch.inf).argmax())
    begin, end = divmod(best, last - first)
    return context[offsets[first + begin][0] : offsets[first + end][1]]


def normal(text: str) -> str:
    """Without case, punctuation, articles and extra blanks, as SQuAD's script compares answers
    (Rajpurkar et al., arXiv 1606.05250)."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", kept).split())


def words_f1(told: str, wanted: str) -> float:
    """F1 of the words that two answers have in common, 0..1, as SQuAD's script counts it."""
    one, other = normal(told).split(), normal(wanted).split()
    common = sum((Counter(one) & Counter(other)).values())
    if not one or not other:
        return float(one == other)
    return 2 * common / (len(one) + len(other))
