"""Text classification and regression: one label, or one number, for one text or a pair."""

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any, ClassVar

import pandas as pd
import torch
from pydantic import Field
from scipy.stats import spearmanr
from sklearn.metrics import matthews_corrcoef
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from sharetune.spaces.augmentation import TEXTS, Augmentation
from sharetune.spaces.errors import ConfigError, DataError
from sharetune.spaces.evaluator import Scores, part_sums
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.data.tables import column, filled, named_values, numbers
from sharetune.trainers.data.text_augmentation import copies
from sharetune.trainers.tasks.base import NEED_A_FITTING_TASK, TASKS, DataFacts, Task
from sharetune.trainers.tasks.metrics import by_class, calibration_error

TEXT_COLUMNS = ("text", "sentence", "content", "article", "review", "document", "sentence1")
"""Names by which the column of texts is found, the first that the table has."""

PAIRED = {"sentence1": "sentence2"}
"""Usual names of a first text's column that has a second one, as in GLUE, which one must name."""

OF_LABELS = ("distill", "r_drop", "label_smoothing")
"""Keys of a recipe that need class probabilities, which a regression does not have."""

LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "score")
"""Names by which the column of labels is found, the first that the table has."""


@TASKS.register("text-classification")
class TextClassification(Task):
    """one label for one text or two: accuracy, macro-F1, Matthews; or a number: Spearman

    `train` and `test` are files or the hub name of a data set; without `test` a fifth of the
    training rows, drawn evenly over the labels, is held out. `text` and `label` name the
    columns, `labels` the label set in order; all three are inferred where left out. `pair` names
    the column of a second text. `regression` takes the label as a number to predict.
    """

    auto: ClassVar[Any] = AutoModelForSequenceClassification
    fitting: ClassVar[tuple[str, ...]] = NEED_A_FITTING_TASK
    alterations: ClassVar[tuple[str, ...]] = TEXTS
    pads: ClassVar[bool] = True

    text: str | None = Field(
        None, description="column of texts; null: the first of the usual names, such as `text`"
    )
    pair: str | None = Field(
        None, description="column of each example's second text; null: one text an example"
    )
    label: str | None = Field(
        None,
        description="column of labels or numbers to predict; null: the first of the usual names, "
        "such as `label`",
    )
    labels: tuple[str, ...] | None = Field(
        None, description="the labels in order; null: those that the training data have, sorted"
    )
    regression: bool = Field(False, description="predict the label as a number; false: classify")

    @property
    def metrics(self) -> tuple[str, ...]:
        if self.regression:
            return ("spearman", "mean_squared_error")
        return ("accuracy", "macro_f1", "matthews", "eval_loss", "calibration_error")

    @property
    def evenly_over(self) -> str | None:
        return None if self.regression else "label"

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        if self.regression:
            if self.labels is not None:
                raise ConfigError("a regression has no task.labels", "leave labels out")
            return *self.frames(self._columns), DataFacts()
        train, test = self.frames(self._columns)
        labels = label_set(self.labels, (self.train, train), (self.test_source, test))
        for frame in (train, test):
            frame["label"] = frame["label"].map(labels.index)
        return train, test, DataFacts(labels=tuple(labels))

    def head(self, facts: DataFacts) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"} if self.regression else named(facts)

    @property
    def reads_pairs(self) -> bool:
        return self.pair is not None

    def texts(self, frame: pd.DataFrame) -> Iterable[str]:
        return pd.concat([frame[name] for name in ("text", "pair") if name in frame])

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        texts = [frame[name].tolist() for name in ("text", "pair") if name in frame]
        tokens = reader(*texts, truncation=True, max_length=max_length)
        return {**tokens, "labels": frame["label"].tolist()}

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        for part in OF_LABELS if self.regression else ():
            if getattr(recipe, part):
                raise ConfigError(
                    f"recipe.{part} is about the probabilities of labels, which a regression lacks",
                    "leave it out",
                )

    def augmented(self, frame: pd.DataFrame, settings: Augmentation) -> pd.DataFrame:
        altered = {
            name: copies(frame[name].tolist(), settings)
            for name in ("text", "pair")
            if name in frame
        }
        more = [
            frame.assign(**dict(zip(altered, texts, strict=True)))
            for texts in zip(*altered.values(), strict=True)
        ]
        return pd.concat([frame, *more], ignore_index=True)

    def score(self, predictions: Tensor, labels: Sequence[Any], facts: DataFacts) -> Scores:
        if self.regression:
            return regression_scores(predictions[:, 0], labels)
        return classification_scores(predictions, labels, facts.labels)

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        text = column(frame, source, self.text, TEXT_COLUMNS, "text")
        label = column(frame, source, self.label, LABEL_COLUMNS, "label")
        if self.pair is None and self.text is None and {text, PAIRED.get(text)} <= {*frame.columns}:
            raise DataError(
                f"{source} has two texts, {text!r} and {PAIRED[text]!r}, and task.pair names none",
                f"set task.pair: {PAIRED[text]}, or task.text: {text} to read one only",
            )
        given = {"text": filled(frame[text], source, "text")}
        if self.pair is not None:
            pair = column(frame, source, self.pair, (), "pair")
            given["pair"] = filled(frame[pair], source, "second text")
        if self.regression:
            return pd.DataFrame(given | {"label": numbers(frame[label], source, "label")})
        labels = named_values(frame[label], source, "label", self.labels or ())
        return pd.DataFrame(given | {"label": labels})


def label_set(
    given: Sequence[str] | None, *frames: tuple[str, pd.DataFrame], column: str = "label"
) -> list[str]:
    """Return the labels in order: `given`, or those of the first of `frames`.

    Each of `frames` comes after its source. Raises :class:`DataError` for a single label and for
    labels that are not in the set.
    """
    first, train = frames[0]
    labels = list(given or sorted(train[column].unique()))
    if len(labels) < 2:
        raise DataError(
            f"{first} has one class only: {labels[0]!r}",
            "a classification needs at least two labels",
        )
    for source, frame in frames:
        unknown = sorted(set(frame[column]) - set(labels))
        if unknown:
            raise DataError(
                f"{source} has labels that {'task.labels' if given else first} "
                f"lacks: {', '.join(map(repr, unknown[:5]))}",
                f"known labels: {', '.join(map(repr, labels[:20]))}",
            )
    return labels


def named(facts: DataFacts) -> dict[str, Any]:
    """Return a head's part of the model's configuration: the labels' names."""
    labels = facts.labels
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "num_labels": len(labels),
    }


def classification_scores(logits: Tensor, labels: Sequence[int], names: Sequence[str]) -> Scores:
    """Return metrics, report by class and confusion matrix of `logits` (examples, classes)."""
    truth, predicted = torch.tensor(labels), logits.argmax(-1)
    per_class, confusion = by_class(truth, predicted, names)
    nats = functional.cross_entropy(logits, truth, reduction="none")
    return Scores(
        {
            "accuracy": float((predicted == truth).float().mean()),
            "macro_f1": mean(row["f1"] for row in per_class.values()),
            "matthews": float(matthews_corrcoef(truth, predicted)),
            "eval_loss": float(nats.mean()),
            "calibration_error": calibration_error(logits, truth),
        },
        per_class,
        confusion,
        part_sums(nats=nats.tolist(), predictions=[1] * len(truth)),
    )


def regression_scores(predicted: Tensor, truth: Sequence[float]) -> Scores:
    """Return Spearman's rank correlation, -1..1, and the mean squared error.

    The correlation is 0 where all predictions are equal.
    """
    wanted = torch.tensor(truth, dtype=torch.float32)
    constant = bool((predicted == predicted[0]).all())
    squares = (predicted - wanted).square()
    metrics = {
        "spearman": 0.0 if constant else float(spearmanr(predicted, wanted).statistic),
        "mean_squared_error": float(squares.mean()),
    }
    sums = part_sums(squares=squares.tolist(), predictions=[1] * len(wanted))
    return Scores(metrics, part_sums=sums)
