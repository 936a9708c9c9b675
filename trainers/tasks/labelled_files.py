"""One label for one file, whatever kind of file it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from torch import Tensor

from sharetune.spaces.evaluator import Scores
from sharetune.trainers.data.tables import labelled_files
from sharetune.trainers.tasks.base import DataFacts, Task
from sharetune.trainers.tasks.text_classification import classification_scores, label_set, named


class LabelledFiles(Task):
    """A task whose splits are folders with a folder of files for each label, or tables.

    `kind` is what a file is called, `suffixes` what its name may end with.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    label: str | None = None
    labels: tuple[str, ...] | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1", "matthews", "eval_loss", "calibration_error")

    @property
    def evenly_over(self) -> str | None:
        return "label"

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        train, test = self.frames(self.columns)
        labels = label_set(self.labels, (self.train, train), (self.test or self.train, test))
        for frame in (train, test):
            frame["label"] = frame["label"].map(labels.index)
        return train, test, DataFacts(labels=tuple(labels))

    def table(self, source: str, split: str) -> pd.DataFrame:
        folder = Path(source)
        if folder.is_dir():
            return labelled_files(folder, self.kind, self.suffixes)
        return super().table(source, split)

    def columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        """The files and, as text, the column ``label`` of a table as it was read."""
        raise NotImplementedError

    def head(self, facts: DataFacts) -> dict[str, Any]:
        return named(facts)

    def score(self, predictions: Tensor, labels: Sequence[Any], facts: DataFacts) -> Scores:
        return classification_scores(predictions, [int(n) for n in labels], facts.labels)
