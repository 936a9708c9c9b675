"""Teachers: a checkpoint, or the unshared model, fine-tuned once by the first that needs it.

The run's cache holds the teacher's folder and its logits for the training split.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, set_seed

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.digest import digest
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.data.row_cache import read_or_made
from sharetune.trainers.tasks.base import PreparedTask, Split
from sharetune.trainers.tasks.prediction import predict
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.trainer import TrainingInputs, optimiser_steps, train

MOST_CACHED_BYTES = 256 * 2**20
"""Largest cached logits of a teacher in bytes, which every worker holds in memory."""


@dataclass(frozen=True)
class Teachers:
    """The teachers of one study; `recipe` fine-tunes the unshared model to be one."""

    task: PreparedTask
    recipe: Recipe

    def lesson(self, settings: Distillation, split: Split) -> Lesson:
        """Return the teacher, or its logits, that a student learns from on `split`.

        Logits are computed once and cached where nothing else of the teacher is used and they take
        at most 256 MiB.
        """
        size = 4 * len(split.rows) * len(self.task.facts.labels)
        if settings.hidden or settings.relations or size > MOST_CACHED_BYTES:
            return Lesson(self.task.load(self.folder(settings)).eval())
        return Lesson(logits=self.logits(settings, split))

    def folder(self, settings: Distillation) -> str:
        """Return the folder or hub name of the teacher.

        The first to ask fine-tunes it; a second process waits for the first.
        """
        if settings.teacher != UNSHARED:
            return settings.teacher
        folder = self._cache / digest([self.task.start, self.recipe.model_dump_json()])
        with locked(folder):
            read_or_made(folder, _check, self._fine_tune)
        return str(folder)

    @property
    def _cache(self) -> Path:
        return self.task.cache / "teachers"

    def logits(self, settings: Distillation, split: Split) -> Tensor:
        """Return the teacher's logits for all of `split`, (examples, classes)."""
        name = self.folder(settings)
        identity = digest([name, split.identity])
        path = self._cache / f"logits-{identity}.pt"
        with locked(path):
            return read_or_made(
                path,
                lambda there: cast(Tensor, torch.load(there, weights_only=True)),
                lambda draft: self._answer_all(self.task.load(name), split, draft),
            )

    def _fine_tune(self, folder: Path) -> None:
        set_seed(self.recipe.seed)
        split, _ = self.task.splits(self.recipe.max_length, None)
        model = self.task.load()
        steps = optimiser_steps(self.recipe, len(split.rows))
        train(model, self.recipe, TrainingInputs(split.rows, split.collate, steps))
        model.save_pretrained(folder)

    def _answer_all(self, model: PreTrainedModel, split: Split, path: Path) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        logits = predict(model.to(device), data=_Unlabelled(split.rows), collate=split.collate)
        torch.save(logits, path)


def _check(folder: Path) -> None:
    """Raise an error if the files of the teacher in `folder` are not whole."""
    AutoConfig.from_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt"):
            pass


class _Unlabelled:
    """A data set's rows without their labels, in order."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: value for key, value in self.rows[index].items() if key != "labels"}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that excludes other processes on this file system; it ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.parent / f".{path.name}.lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
