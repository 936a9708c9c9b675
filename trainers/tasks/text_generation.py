"""Causal language modelling: the next token of a text."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import exp, log
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, default_data_collator

from sharetune.spaces.errors import ConfigError, DataError, ModelError
from sharetune.spaces.evaluator import Scores, part_sums
from sharetune.spaces.objectives import MOST_NATS
from sharetune.trainers.data.blocks import UNCOUNTED, Blocks, Text, documents
from sharetune.trainers.data.chats import chat_of, written_chat
from sharetune.trainers.data.streams import (
    HeldOut,
    checked,
    read_parts,
    remaining,
    streamed,
    write_parts,
)
from sharetune.trainers.data.tables import column, filled
from sharetune.trainers.models.dtypes import TRAINED
from sharetune.trainers.tasks.base import HELD_OUT, TASKS, DataFacts, Split, Task, WrittenSplits
from sharetune.trainers.tasks.generation import NEW_TOKENS, write_on
from sharetune.trainers.tasks.prediction import losses

TEXT_COLUMNS = ("text", "content", "article", "document", "sentence")
"""Names by which the column of texts is found, the first that the table has."""

CHAT_COLUMNS = ("messages", "conversations", "conversation")
"""Names by which a column of chats is found, in a table without a column of texts."""

ALONE = 5
"""Tokens of each of two documents on which it is checked that the second does not see the first."""

HELD_ROWS = 1000
"""Rows that are held out of a stream at most: a test on more takes long and tells little more."""

PREDICTED_AT_ONCE = 1000
"""Blocks whose predicted tokens are counted at once."""

SEEN = 1e-4
"""Largest difference of logits, as a fraction of the largest, that rounding makes of it."""


def _held_out(part: float) -> HeldOut:
    """Return the rule that holds a `part` (0..1) of a stream's first rows out."""
    return HeldOut(max(2, round(1 / part)), HELD_ROWS)


@TASKS.register("text-generation")
class TextGeneration(Task):
    """the next token of a text, by GPT-2, Llama, Qwen2 and others: perplexity

    `train` and `test` are tables or the hub name of a data set, `text` names the column. All texts
    of a split, an end of text after each, are put together and cut into blocks of the recipe's
    `max_length`; what is left over at the end is not used. The first token of a block is not
    predicted. `messages` names a column of chats instead, which the model's chat template writes;
    with `answers_only` only what an assistant says, or what follows a `prompt`, is predicted.
    Perplexity is by token, so it only compares models of one tokenizer; by byte it
    compares all: `byte_perplexity` is e to the nats of all tokens predicted, divided by the UTF-8
    bytes of the text that they stand for, and `bits_per_byte` its logarithm to base 2.
    """

    auto: ClassVar[Any] = AutoModelForCausalLM
    fitting: ClassVar[tuple[str, ...]] = ("distill",)
    layout: ClassVar[int] = 2

    text: str | None = Field(
        None, description="column of texts; null: the first of the usual names, such as `text`"
    )
    prompt: str | None = Field(
        None, description="column of what stands before each text, to be read; null: nothing does"
    )
    messages: str | None = Field(
        None,
        description="column of chats, each a list of messages with `role` and `content`, or JSON "
        "of one; null: `messages` and the like, in a table without texts",
    )
    answers_only: bool = Field(
        False,
        description="predict only the assistant's messages of a chat, or the texts after a prompt",
    )
    stream: bool = Field(
        False,
        description="read the data row by row, for those that do not fit into memory; they lie in "
        "the run's cache then, as texts and as blocks",
    )
    most_rows: int | None = Field(
        None,
        ge=1,
        description="rows of the training data that are read as a stream; null: all",
    )
    documents: Literal["joined", "apart"] = Field(
        "joined",
        description="whether texts of one block see those before them: `apart`, positions begin "
        "anew with each and attention stays inside it",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("perplexity", "eval_loss", "byte_perplexity", "bits_per_byte")

    @property
    def generates(self) -> bool:
        return True

    @property
    def holds_out_rows(self) -> bool:
        return not self.stream

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        """Read the training and the test split; of a stream, their first rows."""
        if not self.stream:
            return *self.frames(self._columns), DataFacts()
        splits = self._streams()
        train = next(splits["train"], pd.DataFrame())
        return train, next(splits["test"], pd.DataFrame()), DataFacts()

    def write_splits(self, cache: Path) -> WrittenSplits:
        if not self.stream:
            return super().write_splits(cache)
        rows, streams = {}, self._streams()
        for name, parts in streams.items():
            file = cache / f"{name}.parquet"
            rows[name] = write_parts(parts, file)
            if not rows[name]:
                raise DataError(f"the {name} split has no rows", "give more, or another split")
        sample = next(read_parts(cache / "train.parquet"))
        return WrittenSplits(sample, DataFacts(), rows)

    def _streams(self) -> dict[str, Iterator[pd.DataFrame]]:
        """Return the parts of each split.

        Without a test split every fifth of the first 5,000 training rows is held out for it. Splits
        that are a fraction are held out in the same way, up to 1,000 rows of each.
        """

        def parts(source: str, split: str, most: int | None = None) -> Iterator[pd.DataFrame]:
            found = streamed(source, split, most)
            return checked(found, source, lambda part: self._columns(part, source))

        def train() -> Iterator[pd.DataFrame]:
            return parts(self.train, "train", self.most_rows)

        held: dict[str, HeldOut] = {}
        if not isinstance(self.test, str):
            held["test"] = _held_out(self.test or HELD_OUT)
        if isinstance(self.validation, float):
            held["validation"] = _held_out(self.validation)
        found = {"train": remaining(train(), [*held.values()])}
        for place, (name, rule) in enumerate(held.items()):
            before = [*held.values()][:place]
            found[name] = rule.taken(remaining(train(), before))
        if isinstance(self.test, str):
            found["test"] = parts(self.test, "test")
        if isinstance(self.validation, str):
            found["validation"] = parts(self.validation, "validation")
        return found

    def texts(self, frame: pd.DataFrame) -> Iterable[str]:
        if "messages" not in frame.columns:
            return [*frame.get("prompt", ()), *frame["text"]]
        return [m["content"] for chat in frame["messages"] for m in json.loads(chat)]

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        (cut,) = self._blocks(iter([frame]), reader, max_length)
        return {name: values.tolist() for name, values in cut.items()}

    def row_parts(self, file: Path, reader: Any, max_length: int) -> Iterator[dict[str, Any]]:
        yield from self._blocks(read_parts(file), reader, max_length)

    def _blocks(
        self, parts: Iterator[pd.DataFrame], reader: Any, max_length: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the blocks that parts of a table make; raise :class:`DataError` for none."""
        blocks = Blocks(max_length, apart=self.documents == "apart")
        count = 0
        for part in parts:
            cut = blocks.add(documents(self._texts(part, reader), reader))
            if len(cut["input_ids"]):
                count += len(cut["input_ids"])
                yield cut
        if count:
            return
        raise DataError(
            f"a split has {blocks.left_over} tokens, and one block takes {max_length}"
            if not self.answers_only
            else f"a split has no block of {max_length} tokens with an answer",
            "give more text, or set recipe.max_length lower",
        )

    def _texts(self, frame: pd.DataFrame, reader: Any) -> list[Text]:
        """Return the texts of a table, and which parts of them are predicted."""
        if "messages" in frame.columns:
            chats = [written_chat(chat, reader) for chat in frame["messages"]]
            return chats if self.answers_only else [Text(one.text, None, False) for one in chats]
        if "prompt" not in frame.columns:
            return [Text(text) for text in frame["text"]]
        found = []
        for prompt, text in zip(frame["prompt"], frame["text"], strict=True):
            answer = ((len(prompt), len(prompt) + len(text)),)
            found.append(Text(prompt + text, answer if self.answers_only else None))
        return found

    def load(
        self, model: str, facts: DataFacts, dtype: torch.dtype | str = TRAINED
    ) -> PreTrainedModel:
        loaded = super().load(model, facts, dtype)
        if self.documents == "apart":  # with a cache the library takes a block for one text
            loaded.config.use_cache = False
        return loaded

    def refuse_model(self, model: PreTrainedModel) -> None:
        """Raise :class:`ModelError` where a document sees the one before it, though `apart`."""
        if self.documents == "apart" and not _keeps_apart(model):
            raise ModelError(
                f"{type(model).__name__} with {model.config._attn_implementation} attention lets "
                "documents of one block see each other",
                "set task.documents to joined",
            )

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return default_data_collator

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        return losses(model, data=split.rows, collate=split.collate)

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        """Score :class:`Losses` in nats; `labels` are ``[tokens, bytes]`` of each block."""
        loss = predictions.mean
        metrics = {"perplexity": exp(min(loss, MOST_NATS)), "eval_loss": loss}
        sums: dict[str, Sequence[float]] = {"predictions": predictions.counts}
        tokens, size = (sum(column) for column in zip(*labels, strict=True)) if labels else (0, 0)
        if size:
            nats = loss * tokens / size
            metrics["byte_perplexity"] = exp(min(nats, MOST_NATS))
            metrics["bits_per_byte"] = nats / log(2)
            sums["bytes"] = [block_bytes for _, block_bytes in labels]
        if predictions.nats is None:
            return Scores(metrics)
        return Scores(metrics, part_sums=part_sums(nats=predictions.nats, **sums))

    def counted(self, model: PreTrainedModel, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return logits[:, :-1][(batch["labels"][:, 1:] != UNCOUNTED).to(logits.device)]

    def predictions_of(self, rows: Any) -> Any:
        parts = rows.with_format("numpy").iter(PREDICTED_AT_ONCE)
        counts = [(part["labels"][:, 1:] != UNCOUNTED).sum(1) for part in parts]
        return np.concatenate(counts)

    def write(self, model: PreTrainedModel, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        return write_on(model, inputs["input_ids"][:, NEW_TOKENS:], tokens)

    def written(self, model: PreTrainedModel) -> int:
        return NEW_TOKENS

    def used(self, model: PreTrainedModel, max_length: int) -> str:
        return f"generation of {NEW_TOKENS} tokens with cache after {max_length - NEW_TOKENS}"

    @model_validator(mode="after")
    def _texts_or_chats(self) -> "TextGeneration":
        if self.most_rows is not None and not self.stream:
            raise ConfigError(
                f"task.most_rows is {self.most_rows}, but task.stream is false",
                "set task.stream to true, or leave most_rows out",
            )
        if self.messages is not None and (self.text, self.prompt) != (None, None):
            raise ConfigError(
                "a table's rows are texts or chats, but task.messages and "
                f"{'task.text' if self.text else 'task.prompt'} are given",
                "leave one of the two out",
            )
        return self

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        chats = self.messages
        if chats is None and self.text is None and not {*frame.columns} & {*TEXT_COLUMNS}:
            chats = next((name for name in CHAT_COLUMNS if name in frame.columns), None)
        if chats is not None:
            name = column(frame, source, chats, CHAT_COLUMNS, "messages")
            cells = [chat_of(cell, source, row) for row, cell in enumerate(frame[name], 1)]
            return pd.DataFrame({"messages": cells}, dtype=object)
        if self.answers_only and self.prompt is None:
            raise ConfigError(
                f"task.answers_only needs answers, but {source} is read as plain texts",
                "name a column of chats as task.messages, or of what stands before each text as "
                "task.prompt",
            )
        text = column(frame, source, self.text, TEXT_COLUMNS, "text")
        found = {"text": filled(frame[text], source, "text")}
        if self.prompt is not None:
            name = column(frame, source, self.prompt, (), "prompt")
            found["prompt"] = filled(frame[name], source, "prompt")
        return pd.DataFrame(found)


def _keeps_apart(model: PreTrainedModel) -> bool:
    """Say whether the second of two documents in a block has the logits that it has alone."""
    size = model.config.get_text_config().vocab_size
    ids = torch.arange(1, 2 * ALONE + 1, device=model.device)[None] % size
    places = torch.arange(ALONE, device=model.device).repeat(2)[None]
    trains = model.training
    model.eval()
    try:
        with torch.no_grad():
            both = model(input_ids=ids, position_ids=places).logits[:, ALONE:]
            alone = model(input_ids=ids[:, ALONE:], position_ids=places[:, ALONE:]).logits
    except TypeError:  # a model that takes no positions
        return False
    finally:
        model.train(trains)
    return bool((both - alone).abs().max() <= SEEN * alone.abs().max())
