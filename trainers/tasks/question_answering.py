"""Extractive question answering: the words of a passage that answer a question."""

import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any, ClassVar

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores, part_sums
from sharetune.trainers.data.cells import as_text, is_null, written_value
from sharetune.trainers.data.reader_fit import with_places
from sharetune.trainers.data.tables import column, filled
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task

ARTICLES = re.compile(r"\b(a|an|the)\b")
"""English articles, which SQuAD's script leaves out of its comparison."""

LONGEST_ANSWER = 30
"""Tokens that an answer may have, as in the library's SQuAD example."""

BATCH = 32
"""Examples of a prediction batch, which bounds memory."""


@TASKS.register("question-answering")
class QuestionAnswering(Task):
    """the words of a passage that answer a question, by encoders: exact match and F1 (SQuAD)

    `train` and `test` are tables or the hub name of a data set with the columns `question`,
    `context` and `answers`, the last as SQuAD has it (``{"text": [...], "answer_start": [...]}``,
    or a list of ``{"text": ..., "answer_start": ...}``), in a CSV as JSON or pandas write it, or
    one text that stands in the context. A context is cut to the recipe's `max_length`, a question
    to half of it; an answer beyond it cannot be found.
    """

    auto: ClassVar[Any] = AutoModelForQuestionAnswering
    pads: ClassVar[bool] = True

    question: str | None = Field(
        None,
        description="column of questions; null: the first of the usual names, such as `question`",
    )
    context: str | None = Field(
        None,
        description="column of passages; null: the first of the usual names, such as `context`",
    )
    answers: str | None = Field(
        None,
        description="column of accepted answers; null: the first of the usual names, such as "
        "`answers`",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("answer_f1", "exact_match")

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        return *self.frames(self._columns), DataFacts()

    @property
    def reads_pairs(self) -> bool:
        return True

    def texts(self, frame: pd.DataFrame) -> Iterable[str]:
        return pd.concat([frame["question"], frame["context"].drop_duplicates()])

    def reader(self, model: str) -> Any:
        return with_places(super().reader(model))

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        read = reader(
            [_cut(question, reader, max_length // 2) for question in frame["question"]],
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
                outputs = model(**{key: value.to(model.device) for key, value in batch.items()})
            found += zip(outputs.start_logits.cpu(), outputs.end_logits.cpu(), strict=True)
        return found

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        exact, partly = [], []
        for (starts, ends), written in zip(predictions, labels, strict=True):
            row = json.loads(written)
            answer = best_answer(starts, ends, row["offsets"], row["context"])
            exact.append(max(float(normal(answer) == normal(text)) for text in row["texts"]))
            partly.append(max(words_f1(answer, text) for text in row["texts"]))
        return Scores(
            {"answer_f1": mean(partly), "exact_match": mean(exact)},
            part_sums=part_sums(matches=exact, word_f1=partly, answers=[1] * len(labels)),
        )

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        context = filled(
            frame[column(frame, source, self.context, ("context",), "context")], source, "text"
        )
        question = column(frame, source, self.question, ("question",), "question")
        answers = frame[column(frame, source, self.answers, ("answers", "answer"), "answers")]
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


def _cut(question: str, reader: Any, most: int) -> str:
    """Return the beginning of a question that has at most `most` tokens."""
    spans = reader(question, add_special_tokens=False, return_offsets_mapping=True)
    places = spans["offset_mapping"]
    return question if len(places) <= most else question[: places[most][0]].rstrip()


def _answers(value: object, context: str, source: str, row: int) -> tuple[list[str], int]:
    """Return all accepted answers, and the offset in `context` (letters) of the first of them."""
    pairs = _pairs(value, context)
    texts = [as_text(text) for text, _ in pairs if not is_null(text)]
    if not pairs or len(texts) < len(pairs) or not all(text and text.strip() for text in texts):
        raise DataError(
            f"{source} has no answer in row {row}, but {str(value)[:60]!r}",
            'needed: a text, or {"text": ["..."], "answer_start": [0]}; questions without an '
            "answer are not trained on",
        )
    answers = [text for text in texts if text]
    given = pairs[0][1]
    start = context.find(answers[0]) if given is None else given
    if not isinstance(start, int) or start < 0 or not context.startswith(answers[0], start):
        raise DataError(
            f"{source} has an answer in row {row} that does not stand in its context"
            f"{'' if given is None else f' at {given}'}: {answers[0]!r}",
            "extractive answers are pieces of the context, letter for letter",
        )
    return answers, start


def _pairs(value: object, context: str) -> list[tuple[Any, Any]]:
    """Return the texts of a cell's answers, each with its offset or None."""
    if isinstance(value, str) and value not in context:
        value = written_value(value)
    if isinstance(value, list):
        return [pair for each in value for pair in _pairs(each, context)]
    if not isinstance(value, dict):
        return [(value, None)]
    texts, starts = value.get("text"), value.get("answer_start")
    texts = texts if isinstance(texts, list) else [texts]
    starts = starts if isinstance(starts, list) else [starts]
    return [(text, starts[i] if i < len(starts) else None) for i, text in enumerate(texts)]


def _token_span(offsets: Sequence[Any], start: int, end: int) -> tuple[int, int]:
    """Return the first and last token of the letters start..end; (0, 0) where they were cut off."""
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    return (inside[0], inside[-1]) if inside else (0, 0)


def best_answer(
    starts: Tensor,
    ends: Tensor,
    offsets: Sequence[Any],
    context: str,
    longest: int = LONGEST_ANSWER,
) -> str:
    """Return the span of `context` whose first and last token have the largest sum of logits.

    It has at most `longest` tokens; `offsets` are the letters of each token, (0, 0) outside the
    context.
    """
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
    """Normalise an answer as SQuAD's script does: no case, punctuation, articles or extra blanks.

    See Rajpurkar et al., arXiv 1606.05250.
    """
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", kept).split())


def words_f1(answer: str, wanted: str) -> float:
    """Compute the F1 of the words that two answers share, 0..1, as SQuAD's script counts it."""
    one, other = normal(answer).split(), normal(wanted).split()
    common = sum((Counter(one) & Counter(other)).values())
    if not one or not other:
        return float(one == other)
    return 2 * common / (len(one) + len(other))
