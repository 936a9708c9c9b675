"""Base of the tasks that give one label to each file, such as a picture or a recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field
from torch import Tensor

from sharetune.spaces.evaluator import Scores
from sharetune.trainers.data.tables import labelled_files, named_values
from sharetune.trainers.tasks.base import DataFacts, Task
from sharetune.trainers.tasks.text_classification import classification_scores, label_set, named


class LabelledFiles(Task):
    """A task whose splits are tables, or folders that hold a folder of files for each label.

    `kind` is what a file is called, `suffixes` what its name may end with.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    label: str | None = Field(
        None,
        description="column of a table's labels; null: the first of the usual names, such as "
        "`label`",
    )
    labels: tuple[str, ...] | None = Field(
        None, description="the labels in order; null: those that the training data have, sorted"
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1", "matthews", "eval_loss", "calibration_error")

    @property
    def evenly_over(self) -> str | None:
        return "label"

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        train, test = self.frames(self.columns)
        labels = label_set(self.labels, (self.train, train), (self.test_source, test))
        for frame in (train, test):
            frame["label"] = frame["label"].map(labels.index)
        return train, test, DataFacts(labels=tuple(labels))

    def table(self, source: str, split: str) -> pd.DataFrame:
        folder = Path(source)
        if folder.is_dir():
            return labelled_files(folder, self.kind, self.suffixes)
        return super().table(source, split)

    def columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        """Return a table's files and, as text, its labels in the column ``label``."""
        raise NotImplementedError

    def named_labels(self, values: pd.Series, source: str) -> pd.Series:
        """Return labels as texts; those of folders may have any name.

        Raises :class:`DataError` if any is missing.
        """
        known = values if Path(source).is_dir() else self.labels or ()
        return named_values(values, source, "label", known)

    def head(self, facts: DataFacts) -> dict[str, Any]:
        return named(facts)

    def score(self, predictions: Tensor, labels: Sequence[Any], facts: DataFacts) -> Scores:
        return classification_scores(predictions, [int(n) for n in labels], facts.labels)
