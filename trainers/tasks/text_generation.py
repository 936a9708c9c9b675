"""Causal language modelling: the next token of a text."""

from collections.abc import Callable, Sequence
from itertools import chain
from math import exp
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, default_data_collator

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores
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
    `max_length`; what is left over at the end is not used. Perplexity is by token, so it only
    compares models of one tokenizer.
    """

    auto: ClassVar[Any] = AutoModelForCausalLM

    text: str | None = Field(
        None, description="column of texts; null: the first of the usual names, such as `text`"
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("perplexity", "eval_loss")

    @property
    def generates(self) -> bool:
        return True

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        return *self.frames(self._columns), DataFacts()

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        end = [] if reader.eos_token_id is None else [reader.eos_token_id]
        texts = reader(frame["text"].tolist(), add_special_tokens=False, verbose=False)["input_ids"]
        tokens = list(chain.from_iterable([*text, *end] for text in texts))
        blocks = [
            tokens[i : i + max_length] for i in range(0, len(tokens) - max_length + 1, max_length)
        ]
        if not blocks:
            raise DataError(
                f"a split has {len(tokens)} tokens, and one block takes {max_length}",
                "give more text, or set recipe.max_length lower",
            )
        return {"input_ids": blocks, "labels": blocks}

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return default_data_collator

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        return mean_loss(model, data=split.rows, collate=split.collate)

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        return Scores({"perplexity": exp(min(predictions, 700)), "eval_loss": predictions})

    def use(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> object:
        return write_on(model, inputs["input_ids"][:, NEW_TOKENS:], NEW_TOKENS)

    def written(self, model: PreTrainedModel) -> int:
        return NEW_TOKENS

    def used(self, model: PreTrainedModel, max_length: int) -> str:
        return f"generation of {NEW_TOKENS} tokens with cache after {max_length - NEW_TOKENS}"

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        text = column(frame, source, self.text, TEXT_COLUMNS, "text")
        return pd.DataFrame({"text": filled(frame[text], source, "text")})
