"""Image classification: one label for each picture."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    default_data_collator,
)

from sharetune.spaces.augmentation import PICTURES, Augmentation
from sharetune.spaces.errors import DataError, ModelError
from sharetune.trainers.data.picture_augmentation import altered
from sharetune.trainers.data.tables import column, resolve_paths
from sharetune.trainers.data.text_augmentation import SEED
from sharetune.trainers.models.pretrained import from_library
from sharetune.trainers.models.sample_inputs import picture_size
from sharetune.trainers.tasks.base import TASKS
from sharetune.trainers.tasks.labelled_files import LabelledFiles
from sharetune.trainers.tasks.text_classification import LABEL_COLUMNS

IMAGE_COLUMNS = ("image", "img", "picture", "path", "file")
"""Names by which a table's column of pictures is found, the first that it has."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""Endings of the files that count as pictures, all of which Pillow opens."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode of pictures by their number of channels."""

BATCH = 64
"""Pictures that are decoded at once, which bounds memory."""


@dataclass(frozen=True)
class PictureReader:
    """An image processor, for a model that reads pictures of `channels` colours."""

    processor: Any
    channels: int

    def __call__(self, pictures: Iterable[object]) -> list[Any]:
        """Return the pixels of each picture, a path or bytes, as (channels, height, width)."""
        opened = [_opened(picture, MODES[self.channels]) for picture in pictures]
        pixels = self.processor(opened, return_tensors="np")["pixel_values"]
        return list(pixels.astype(np.float32))

    def save_pretrained(self, folder: Path) -> None:
        """Write the image processor's file."""
        self.processor.save_pretrained(folder)


@TASKS.register("image-classification")
class ImageClassification(LabelledFiles):
    """one label for one picture, by ViT, DeiT, Swin and others: accuracy and macro-F1

    `train` and `test` are folders with a folder of pictures for each label, or tables (or the hub
    name of a data set) whose column `image` holds pictures' paths, beside the table, or their
    bytes. Pictures are scaled once and kept as the model reads them: 12 bytes a pixel.
    """

    kind: ClassVar[str] = "picture"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    auto: ClassVar[Any] = AutoModelForImageClassification
    fitting: ClassVar[tuple[str, ...]] = ("r_drop", "label_smoothing", "augment")
    alterations: ClassVar[tuple[str, ...]] = PICTURES
    unit: ClassVar[str] = "of no effect on pictures"

    image: str | None = Field(
        None,
        description="column of a table's pictures; null: the first of the usual names, such as "
        "`image`",
    )

    def reader(self, model: str) -> Any:
        processor = from_library(AutoImageProcessor, model)
        return PictureReader(processor, _channels(from_library(AutoConfig, model)))

    def refuse_unread(self, frame: pd.DataFrame, reader: PictureReader, config: Any) -> None:
        mean = getattr(reader.processor, "image_mean", None)
        if isinstance(mean, list | tuple) and len(mean) != reader.channels:
            raise ModelError(
                f"the model reads pictures of {reader.channels} channels, and its image processor "
                f"makes some of {len(mean)}",
                f"write {reader.channels} numbers as image_mean and as image_std into the model's "
                "preprocessor_config.json",
            )

    def new_reader(self, config: Any, frame: pd.DataFrame) -> Any:
        from transformers import ViTImageProcessor  # warns when imported without torchvision

        height, width, channels = picture_size(config)
        middle = [0.5] * channels
        return ViTImageProcessor(
            size={"height": height, "width": width}, image_mean=middle, image_std=middle
        )

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        pixels: list[Any] = []
        for start in range(0, len(frame), BATCH):
            pixels += reader(frame["image"][start : start + BATCH])
        return {"pixel_values": pixels, "labels": frame["label"].tolist()}

    def augmented(self, frame: pd.DataFrame, settings: Augmentation) -> pd.DataFrame:
        rng = random.Random(SEED)
        more = [
            frame.assign(image=[altered(_opened(image), settings, rng) for image in frame["image"]])
            for _ in range(settings.copies)
        ]
        return pd.concat([frame, *more], ignore_index=True)

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return default_data_collator

    def columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        image = column(frame, source, self.image, IMAGE_COLUMNS, "image")
        label = column(frame, source, self.label, LABEL_COLUMNS, "label")
        found = resolve_paths(frame[image], source)
        for row, value in enumerate(found, 1):
            _check(value, source, row)
        return pd.DataFrame({"image": found, "label": self.named_labels(frame[label], source)})


def _check(value: object, source: str, row: int) -> None:
    try:
        with Image.open(BytesIO(value) if isinstance(value, bytes) else value):
            return
    except (OSError, UnidentifiedImageError, AttributeError, ValueError):
        seen = value if isinstance(value, str) else type(value).__name__
        raise DataError(
            f"{source} has no picture in row {row}, but {Path(str(seen)).name[:60]!r}",
            "the image column needs paths of pictures, relative to the table, or their bytes",
        ) from None


def _opened(value: object, mode: str = "RGB") -> Image.Image:
    with Image.open(BytesIO(value) if isinstance(value, bytes) else value) as image:
        return image.convert(mode)


def _channels(config: Any) -> int:
    """Return the channels of the pictures that a model, or its part for vision, reads.

    Raises :class:`ModelError` for a number that pictures do not come in.
    """
    found = getattr(getattr(config, "vision_config", config), "num_channels", 3)
    if found not in MODES:
        raise ModelError(
            f"the model reads pictures of {found} channels, and pictures have 1 (grey) or 3",
            "use a model whose configuration has num_channels: 1 or 3",
        )
    return int(found)
