"""One label for one recording."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor
from transformers import AutoModelForAudioClassification, PreTrainedModel

from trainers.inputs import full_length
from trainers.sound import (
    AUDIO_COLUMNS,
    SUFFIXES,
    UNIT,
    check_rate,
    extractor_of,
    inputs,
    new_extractor,
    padded_inputs,
    recordings,
    usual_samples,
)
from trainers.tables import column, labelled_files
from trainers.tasks import TASKS, Task
from trainers.tasks.text_classification import (
    LABEL_COLUMNS,
    classification_scores,
    label_set,
    named,
)


@TASKS.register("audio-classification")
class AudioClassification(Task):
    """one label for one recording, by Wav2Vec2, HuBERT, Whisper's encoder: accuracy, macro-F1

    `train` and `test` are folders with a folder of recordings for each label, or tables (or the hub
    name of a data set) whose column `audio` holds recordings' paths, beside the table, or their
    bytes. The recipe's `max_length` counts samples; what is longer is cut. All recordings have one
    sampling rate, the model's; `resample` brings them to it. A model trained from a configuration
    takes theirs, but for Whisper, which reads 16,000 samples a second.
    """

    auto: ClassVar[Any] = AutoModelForAudioClassification
    fitting: ClassVar[tuple[str, ...]] = ("r_drop", "label_smoothing")
    unit: ClassVar[str] = UNIT

    audio: str | None = None
    label: str | None = None
    labels: tuple[str, ...] | None = None
    resample: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1", "matthews", "eval_loss", "calibration_error")

    @property
    def evenly_over(self) -> str | None:
        return "label"

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
        train, test = self.frames(self._columns)
        labels = label_set(self.labels, (self.train, train), (self.test or self.train, test))
        for frame in (train, test):
            frame["label"] = frame["label"].map(labels.index)
        return train, test, {"labels": labels}

    def table(self, source: str, split: str) -> pd.DataFrame:
        folder = Path(source)
        if folder.is_dir():
            return labelled_files(folder, "recording", SUFFIXES)
        return super().table(source, split)

    def head(self, facts: dict[str, Any]) -> dict[str, Any]:
        return named(facts)

    def length(self, frame: pd.DataFrame, model: PreTrainedModel) -> int:
        return usual_samples(frame, model)

    def refuse_unread(self, frame: pd.DataFrame, reader: Any) -> None:
        check_rate(frame, reader, resample=self.resample)

    def reader(self, model: str) -> Any:
        return extractor_of(model)

    def new_reader(self, config: Any, frame: pd.DataFrame) -> Any:
        return new_extractor(config, int(frame["rate"].iloc[0]))

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        read = inputs(frame, reader, max_length, resample=self.resample)
        return {**read, "labels": frame["label"].tolist()}

    def collator(self, reader: Any, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
            labels = torch.tensor([row["labels"] for row in rows])
            return padded_inputs(reader, rows) | {"labels": labels}

        return collate

    def score(self, predictions: Tensor, labels: Sequence[Any], facts: dict[str, Any]) -> Any:
        return classification_scores(predictions, [int(n) for n in labels], facts["labels"])

    def sample(self, model: PreTrainedModel, batch: int, max_length: int) -> dict[str, Tensor]:
        full = full_length(model, batch, max_length)
        return {name: value for name, value in full.items() if name == model.main_input_name}

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        audio = column(frame, self.audio, AUDIO_COLUMNS, "audio")
        label = column(frame, self.label, LABEL_COLUMNS, "label")
        return recordings(frame[audio], source).assign(label=frame[label].astype(str).to_numpy())
