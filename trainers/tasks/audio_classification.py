"""Audio classification: one label for each recording."""

from collections.abc import Callable
from typing import Any, ClassVar

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForAudioClassification, PreTrainedModel

from sharetune.trainers.data.dummy_inputs import full_length
from sharetune.trainers.data.sound import (
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
from sharetune.trainers.data.tables import column
from sharetune.trainers.tasks.base import TASKS
from sharetune.trainers.tasks.labelled_files import LabelledFiles
from sharetune.trainers.tasks.text_classification import LABEL_COLUMNS


@TASKS.register("audio-classification")
class AudioClassification(LabelledFiles):
    """one label for one recording, by Wav2Vec2, HuBERT, Whisper's encoder: accuracy, macro-F1

    `train` and `test` are folders with a folder of recordings for each label, or tables (or the hub
    name of a data set) whose column `audio` holds recordings' paths, beside the table, or their
    bytes. The recipe's `max_length` counts samples; what is longer is cut. All recordings have one
    sampling rate, the model's; `resample` brings them to it. A model trained from a configuration
    takes theirs, but for Whisper, which reads 16,000 samples a second.
    """

    kind: ClassVar[str] = "recording"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    auto: ClassVar[Any] = AutoModelForAudioClassification
    fitting: ClassVar[tuple[str, ...]] = ("r_drop", "label_smoothing")
    unit: ClassVar[str] = UNIT

    audio: str | None = Field(
        None,
        description="column of a table's recordings; null: the first of the usual names, such as "
        "`audio`",
    )
    resample: bool = Field(
        False,
        description="convert recordings to the model's sampling rate; false: another rate is an "
        "error",
    )

    def length(self, frame: pd.DataFrame, model: PreTrainedModel) -> int:
        return usual_samples(frame, model)

    def refuse_unread(self, frame: pd.DataFrame, reader: object, config: Any) -> None:
        check_rate(frame, reader, resample=self.resample)

    def reader(self, model: str) -> Any:
        return extractor_of(model)

    def new_reader(self, config: object, frame: pd.DataFrame) -> Any:
        return new_extractor(config, int(frame["rate"].iloc[0]))

    def rows(self, frame: pd.DataFrame, reader: object, max_length: int) -> dict[str, list[Any]]:
        read = inputs(frame, reader, max_length, resample=self.resample)
        return {**read, "labels": frame["label"].tolist()}

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
            labels = torch.tensor([row["labels"] for row in rows])
            return padded_inputs(reader, rows) | {"labels": labels}

        return collate

    def sample(self, model: PreTrainedModel, batch: int, max_length: int) -> dict[str, Tensor]:
        full = full_length(model, batch, max_length)
        return {name: value for name, value in full.items() if name == model.main_input_name}

    def columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        audio = column(frame, source, self.audio, AUDIO_COLUMNS, "audio")
        label = column(frame, source, self.label, LABEL_COLUMNS, "label")
        labels = self.named_labels(frame[label], source)
        return recordings(frame[audio], source).assign(label=labels.to_numpy())
