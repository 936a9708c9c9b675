"""One text written anew in another language."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import pandas as pd
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel

from spaces.errors import DataError
from trainers.generation import NEW_TOKENS, generated, write_on
from trainers.tables import column, filled
from trainers.tasks import TASKS, Split, Task
from trainers.training import mean_loss

SOURCE_COLUMNS = ("source", "src", "en")
TARGET_COLUMNS = ("target", "tgt", "translation")


@TASKS.register("translation")
class Translation(Task):
    """one text for another, by Marian, T5, BART or mBART: BLEU and chrF (sacrebleu), loss

    `train` and `test` are tables or the hub name of a data set; `source` and `target` name the
    columns, inferred where left out or where the table has just two. `prefix` stands before every
    source, as T5 wants it. Translations are greedy and at most as long as the recipe's
    `max_length`.
    """

    auto: ClassVar[Any] = AutoModelForSeq2SeqLM

    source: str | None = None
    target: str | None = None
    prefix: str = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("bleu", "chrf", "eval_loss")

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
        return *self.frames(self._columns), {}

    def texts(self, frame: pd.DataFrame) -> Iterable[str]:
        return pd.concat([frame["source"], frame["target"]])

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        sources = [self.prefix + text for text in frame["source"]]
        cut = {"truncation": True, "max_length": max_length}
        tokens = reader(sources, **cut)
        labels = reader(text_target=frame["target"].tolist(), **cut)["input_ids"]
        kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return {**kept, "labels": labels, "truth": frame["target"].tolist()}

    def collator(self, reader: Any, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return DataCollatorForSeq2Seq(reader, model=self.skeleton(model, {}))

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        longest = max(len(row["labels"]) for row in split.rows)
        tokens = generated(model, split, longest)
        texts = split.collate.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts, mean_loss(model, data=split.rows, collate=split.collate)

    def score(self, predictions: Any, labels: Sequence[Any], facts: dict[str, Any]) -> Any:
        import sacrebleu

        texts, loss = predictions
        return {
            "metrics": {
                "bleu": sacrebleu.corpus_bleu(texts, [list(labels)]).score,
                "chrf": sacrebleu.corpus_chrf(texts, [list(labels)]).score,
                "eval_loss": loss,
            }
        }

    def use(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> object:
        return write_on(model, inputs["input_ids"], NEW_TOKENS)

    def used(self, model: PreTrainedModel, max_length: int) -> str:
        return f"generation of {NEW_TOKENS} tokens with cache"

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        if self.source is None and self.target is None and len(frame.columns) == 2:
            first, second = frame.columns
        else:
            if {self.source, self.target} == {None} and not {*frame.columns} & {*SOURCE_COLUMNS}:
                raise DataError(
                    f"{source} has {len(frame.columns)} columns, "
                    f"{', '.join(map(repr, frame.columns))}, and a translation reads two",
                    "set task.source and task.target to the columns' names",
                )
            first = column(frame, self.source, SOURCE_COLUMNS, "source")
            second = column(frame, self.target, TARGET_COLUMNS, "target")
        return pd.DataFrame(
            {
                "source": filled(frame[first], source, "source text"),
                "target": filled(frame[second], source, "target text"),
            }
        )
