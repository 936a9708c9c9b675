"""One label for one text."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import torch
from sklearn.metrics import classification_report, confusion_matrix
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
)

from spaces.augmentation import Augmentation
from spaces.errors import DataError
from trainers.augmentation import copies
from trainers.metrics import calibration_error
from trainers.pretrained import from_library, skeleton
from trainers.tables import column, read_table
from trainers.tasks import TASKS, Split, Task

TEXT_COLUMNS = ("text", "sentence", "content", "article", "review", "document")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target")


@TASKS.register("text-classification")
class TextClassification(Task):
    """one label for one text: accuracy and macro-F1

    `train` and `test` are files or the hub name of a data set; without `test` a fifth of the
    training rows, drawn evenly over the labels, is held out. `text` and `label` name the
    columns, `labels` the label set in order; all three are inferred where left out.
    """

    train: str
    test: str | None = None
    text: str | None = None
    label: str | None = None
    labels: list[str] | None = None

    def prepare(self, model: str, cache: Path, max_length: int) -> dict[str, Any]:
        train, test = self._frames()
        labels = self._labels(train, test)
        cache.mkdir(parents=True, exist_ok=True)
        for name, frame in (("train", train), ("test", test)):
            frame["label"] = frame["label"].map(labels.index)
            frame.to_parquet(cache / f"{name}.parquet")
        self.splits(model, cache, max_length)
        return {"labels": labels, "rows": {"train": len(train), "test": len(test)}}

    def load(self, model: str, facts: dict[str, Any]) -> PreTrainedModel:
        return from_library(AutoModelForSequenceClassification, model, **_head(facts))

    def skeleton(self, model: str, facts: dict[str, Any]) -> PreTrainedModel:
        return skeleton(AutoModelForSequenceClassification, model, **_head(facts))

    def splits(
        self, model: str, cache: Path, max_length: int, augment: Augmentation | None = None
    ) -> tuple[Split, Split]:
        tokenizer = from_library(AutoTokenizer, model)
        collate = DataCollatorWithPadding(tokenizer)
        train = _tokenised(cache, "train", tokenizer, model, max_length, augment)
        test = _tokenised(cache, "test", tokenizer, model, max_length)
        return (
            Split(train[0], collate, list(train[0]["labels"]), train[1]),
            Split(test[0].remove_columns("labels"), collate, list(test[0]["labels"]), test[1]),
        )

    def sample(self, batch_size: int, max_length: int) -> dict[str, Tensor]:
        return {"input_ids": torch.ones(batch_size, max_length, dtype=torch.long)}

    def score(self, logits: Tensor, labels: list[int], facts: dict[str, Any]) -> dict[str, Any]:
        truth, predicted = torch.tensor(labels), logits.argmax(-1)
        names = facts["labels"]
        report = classification_report(
            truth,
            predicted,
            labels=range(len(names)),
            target_names=names,
            output_dict=True,
            zero_division=0,
        )
        return {
            "metrics": {
                "accuracy": float((predicted == truth).float().mean()),
                "macro_f1": float(report["macro avg"]["f1-score"]),
                "eval_loss": float(functional.cross_entropy(logits, truth)),
                "calibration_error": calibration_error(logits, truth),
            },
            "per_class": {name: _per_class(report[name]) for name in names},
            "confusion": confusion_matrix(truth, predicted, labels=range(len(names))).tolist(),
        }

    def _frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        train = self._columns(read_table(self.train, "train"), self.train)
        if self.test is None:
            held_out = train.groupby("label").sample(frac=0.2, random_state=0).index
            return train.drop(held_out), train.loc[held_out].reset_index(drop=True)
        return train, self._columns(read_table(self.test, "test"), self.test)

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        text = column(frame, self.text, TEXT_COLUMNS, "text")
        label = column(frame, self.label, LABEL_COLUMNS, "label")
        empty = frame[text].isna() | frame[text].astype(str).str.strip().eq("")
        if empty.any():
            raise DataError(
                f"{source} has {int(empty.sum())} rows without text, the first at row "
                f"{int(empty.to_numpy().argmax()) + 1}",
                "remove them or fill them in",
            )
        return pd.DataFrame({"text": frame[text].astype(str), "label": frame[label].astype(str)})

    def _labels(self, train: pd.DataFrame, test: pd.DataFrame) -> list[str]:
        found = sorted(train["label"].unique())
        labels = self.labels or found
        if len(labels) < 2:
            raise DataError(
                f"{self.train} has one class only: {labels[0]!r}",
                "a classification needs at least two labels",
            )
        for frame, source in ((train, self.train), (test, self.test)):
            unknown = sorted(set(frame["label"]) - set(labels))
            if unknown:
                raise DataError(
                    f"{source} has labels that {'task.labels' if self.labels else self.train} "
                    f"lacks: {', '.join(map(repr, unknown[:5]))}",
                    f"known labels: {', '.join(map(repr, labels[:20]))}",
                )
        return labels


def _head(facts: dict[str, Any]) -> dict[str, Any]:
    labels = facts["labels"]
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "num_labels": len(labels),
    }


def _per_class(row: dict[str, float]) -> dict[str, float]:
    return {
        "precision": row["precision"],
        "recall": row["recall"],
        "f1": row["f1-score"],
        "support": int(row["support"]),
    }


def _tokenised(
    cache: Path,
    split: str,
    tokenizer: Any,
    model: str,
    max_length: int,
    augment: Augmentation | None = None,
) -> tuple[datasets.Dataset, str]:
    """The split's token ids, made by whoever comes first and then read by all; and its name."""
    settings = [augment.model_dump()] if augment is not None else []
    words = [model, type(tokenizer).__name__, len(tokenizer), max_length, *settings]
    identity = json.dumps(words)
    folder = cache / f"{split}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if not folder.exists():
        frame = pd.read_parquet(cache / f"{split}.parquet")
        if augment is not None:
            more = [frame.assign(text=texts) for texts in copies(frame["text"].tolist(), augment)]
            frame = pd.concat([frame, *more], ignore_index=True)
        tokens = tokenizer(frame["text"].tolist(), truncation=True, max_length=max_length)
        rows = datasets.Dataset.from_dict({**tokens, "labels": frame["label"].tolist()})
        scratch = Path(tempfile.mkdtemp(dir=cache))
        rows.save_to_disk(scratch / "rows")
        try:
            (scratch / "rows").rename(folder)
        except OSError:
            if not folder.exists():
                raise
        shutil.rmtree(scratch)
    return datasets.load_from_disk(folder), folder.name
