"""Causal language modelling: the next token of a text."""

from collections.abc import Callable, Mapping, Sequence
from math import exp, log
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, default_data_collator

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores
from sharetune.trainers.data.blocks import UNCOUNTED, blocks, documents
from sharetune.trainers.data.tables import column, filled
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task
from sharetune.trainers.tasks.generation import NEW_TOKENS, write_on
from sharetune.trainers.tasks.prediction import mean_loss

TEXT_COLUMNS = ("text", "content", "article", "document", "sentence")
"""Names by which the column of texts is found, the first that the table has."""


@TASKS.register("text-generation")
class TextGeneration(Task):
    """the next token of a text, by GPT-2, Llama, Qwen2 and others: perplexity

    `train` and `test` are tables or the hub name of a data set, `text` names the column. All texts
    of a split, an end of text after each, are put together and cut into blocks of the recipe's
    `max_length`; what is left over at the end is not used. The first token of a block is not
    predicted. Perplexity is by token, so it only compares models of one tokenizer; by byte it
    compares all: `byte_perplexity` is e to the nats of all tokens predicted, divided by the UTF-8
    bytes of the text that they stand for, and `bits_per_byte` its logarithm to base 2.
    """

    auto: ClassVar[Any] = AutoModelForCausalLM
    fitting: ClassVar[tuple[str, ...]] = ("distill",)
    layout: ClassVar[int] = 2

    text: str | None = Field(
        None, description="column of texts; null: the first of the usual names, such as `text`"
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("perplexity", "eval_loss", "byte_perplexity", "bits_per_byte")

    @property
    def generates(self) -> bool:
        return True

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        return *self.frames(self._columns), DataFacts()

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        found = documents(frame["text"].tolist(), reader)
        cut = blocks(found, max_length)
        if not len(cut["input_ids"]):
            raise DataError(
                f"a split has {sum(len(one.tokens) for one in found)} tokens, and one block takes "
                f"{max_length}",
                "give more text, or set recipe.max_length lower",
            )
        return {name: values.tolist() for name, values in cut.items()}

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return default_data_collator

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        return mean_loss(model, data=split.rows, collate=split.collate)

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        """Score a mean loss in nats a token; `labels` are ``[tokens, bytes]`` of each block."""
        metrics = {"perplexity": exp(min(predictions, 700)), "eval_loss": predictions}
        tokens, size = (sum(column) for column in zip(*labels, strict=True)) if labels else (0, 0)
        if size:
            nats = predictions * tokens / size
            metrics |= {"byte_perplexity": exp(min(nats, 700)), "bits_per_byte": nats / log(2)}
        return Scores(metrics)

    def counted(self, model: PreTrainedModel, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return logits[:, :-1][(batch["labels"][:, 1:] != UNCOUNTED).to(logits.device)]

    def predictions_of(self, rows: Any) -> Sequence[int]:
        labels = rows.with_format("numpy")["labels"][:]
        return (labels[:, 1:] != UNCOUNTED).sum(1).tolist()

    def use(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> object:
        return write_on(model, inputs["input_ids"][:, NEW_TOKENS:], NEW_TOKENS)

    def written(self, model: PreTrainedModel) -> int:
        return NEW_TOKENS

    def used(self, model: PreTrainedModel, max_length: int) -> str:
        return f"generation of {NEW_TOKENS} tokens with cache after {max_length - NEW_TOKENS}"

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        text = column(frame, source, self.text, TEXT_COLUMNS, "text")
        return pd.DataFrame({"text": filled(frame[text], source, "text")})
