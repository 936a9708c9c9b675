"""Translation: one text rewritten in another language."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel

from sharetune.spaces.errors import ConfigError, DataError
from sharetune.spaces.evaluator import Scores, part_sums
from sharetune.trainers.data.blocks import UNCOUNTED
from sharetune.trainers.data.tables import column, filled
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task
from sharetune.trainers.tasks.generation import NEW_TOKENS, generated, write_on
from sharetune.trainers.tasks.prediction import losses

SOURCE_COLUMNS = ("source", "src", "en")
"""Names by which the column of texts to translate is found, the first that the table has."""

TARGET_COLUMNS = ("target", "tgt", "translation")
"""Names by which the column of translations is found, the first that the table has."""

CODE = re.compile("[a-z]{2,3}_[A-Za-z]{2,4}")
"""A language code among a tokenizer's special tokens, as mBART (en_XX) and NLLB write them."""


@TASKS.register("translation")
class Translation(Task):
    """one text for another, by Marian, T5, BART or mBART: BLEU and chrF (sacrebleu), loss

    `train` and `test` are tables or the hub name of a data set; `source` and `target` name the
    columns, inferred where left out or where the table has just two. `prefix` stands before every
    source, as T5 wants it; `languages` are the codes of both languages for a model of many, such as
    mBART's ``[en_XX, fr_XX]``. Translations are greedy and at most as long as the recipe's
    `max_length`.
    """

    auto: ClassVar[Any] = AutoModelForSeq2SeqLM
    fitting: ClassVar[tuple[str, ...]] = ("distill", "label_smoothing")

    source: str | None = Field(
        None,
        description="column of texts to translate; null: the first of two columns, or the first "
        "of the usual names, such as `source`",
    )
    target: str | None = Field(
        None,
        description="column of translations; null: the second of two columns, or the first of the "
        "usual names, such as `target`",
    )
    prefix: str = Field("", description="text put before every source, as T5 needs it; empty: none")
    languages: tuple[str, str] | None = Field(
        None,
        description="codes of the source and the target language for a multilingual model, such "
        "as mBART's `[en_XX, fr_XX]`; null: the model has one pair",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("bleu", "chrf", "eval_loss")

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        return *self.frames(self._columns), DataFacts()

    def texts(self, frame: pd.DataFrame) -> Iterable[str]:
        return pd.concat([frame["source"], frame["target"]])

    def reader(self, model: str) -> Any:
        tokenizer = super().reader(model)
        known = [token for token in tokenizer.all_special_tokens if CODE.fullmatch(token)]
        if self.languages is None and not known:
            return tokenizer
        if self.languages is None or not {*self.languages} <= {*known}:
            raise ConfigError(
                f"task.languages is {_written(self.languages)}, and the model's tokenizer knows "
                f"{', '.join(known[:60]) or 'no languages'}",
                "name the languages of source and target, as languages: [en_XX, fr_XX]"
                if known
                else "leave languages out",
            )
        tokenizer.src_lang, tokenizer.tgt_lang = self.languages
        return tokenizer

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        sources = [self.prefix + text for text in frame["source"]]
        cut = {"truncation": True, "max_length": max_length}
        tokens = reader(sources, **cut)
        labels = reader(text_target=frame["target"].tolist(), **cut)["input_ids"]
        kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return {**kept, "labels": labels, "truth": frame["target"].tolist()}

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return DataCollatorForSeq2Seq(reader, model=self.skeleton(model, DataFacts()))

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        tokenizer = split.collate.tokenizer
        labels = split.rows["labels"]
        tokens = generated(
            model, split, max(map(len, labels)), **self._beginning(tokenizer, labels[0])
        )
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts, losses(model, data=split.rows, collate=split.collate)

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        import sacrebleu

        texts, loss = predictions
        metrics = {
            "bleu": sacrebleu.corpus_bleu(texts, [list(labels)]).score,
            "chrf": sacrebleu.corpus_chrf(texts, [list(labels)]).score,
            "eval_loss": loss.mean,
        }
        if loss.nats is None:
            return Scores(metrics)
        return Scores(metrics, part_sums=part_sums(nats=loss.nats, predictions=loss.counts))

    def counted(self, model: PreTrainedModel, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return logits[(batch["labels"] != UNCOUNTED).to(logits.device)]

    def predictions_of(self, rows: Any) -> Any:
        return [len(row) for row in rows["labels"]]

    def write(self, model: PreTrainedModel, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        return write_on(model, inputs["input_ids"], tokens)

    def written(self, model: PreTrainedModel) -> int:
        return NEW_TOKENS

    def used(self, model: PreTrainedModel, max_length: int) -> str:
        return f"generation of {NEW_TOKENS} tokens with cache"

    def _beginning(self, tokenizer: Any, labels: Sequence[int]) -> dict[str, int]:
        """Return ``generate``'s argument that sets the target language of a multilingual model.

        Labels have it in front (mBART-50, NLLB) or at the end (mBART), where the decoder starts.
        """
        if self.languages is None:
            return {}
        language = int(tokenizer.convert_tokens_to_ids(self.languages[1]))
        in_front = labels[0] == language
        return {"forced_bos_token_id" if in_front else "decoder_start_token_id": language}

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
            first = column(frame, source, self.source, SOURCE_COLUMNS, "source")
            second = column(frame, source, self.target, TARGET_COLUMNS, "target")
        return pd.DataFrame(
            {
                "source": filled(frame[first], source, "source text"),
                "target": filled(frame[second], source, "target text"),
            }
        )


def _written(languages: tuple[str, str] | None) -> str:
    return "missing" if languages is None else f"[{', '.join(languages)}]"
