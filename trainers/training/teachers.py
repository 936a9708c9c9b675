"""Teachers: a checkpoint, or the unshared model, fine-tuned once by the first that needs it.

The run's cache holds the teacher's folder and its answers to the training split.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, set_seed

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.digest import digest
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.errors import ModelError, SharetuneError
from sharetune.spaces.paths import expanded
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.data.reader_fit import vocabulary_size
from sharetune.trainers.data.row_cache import read_or_made
from sharetune.trainers.tasks.base import PreparedTask, Split
from sharetune.trainers.tasks.prediction import in_parts
from sharetune.trainers.training.cached_answers import (
    CachedAnswers,
    Likely,
    read_likely,
    write_likely,
)
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.trainer import TrainingInputs, optimiser_steps, train

MOST_CACHED_BYTES = 256 * 2**20
"""Largest cached logits of a teacher in bytes, which every worker holds in memory."""

BATCH = 32
"""Rows that a teacher answers at once, fewer where their logits are many."""


@dataclass(frozen=True)
class Teachers:
    """The teachers of one study; `recipe` fine-tunes the unshared model to be one."""

    task: PreparedTask
    recipe: Recipe

    def lesson(self, settings: Distillation, split: Split) -> Lesson:
        """Return the teacher, or its answers, that a student learns from on `split`.

        Where nothing but logits is used, answers are computed once and cached: whole logits if they
        take at most 256 MiB, else the `top_k` of each on disk if the settings say how many.
        """
        task = self.task.task
        wanted = not (settings.hidden or settings.relations)
        if 4 * len(split.rows) * self._classes > MOST_CACHED_BYTES:  # one prediction a row at least
            wanted = wanted and settings.top_k is not None
        counts = task.predictions_of(split.rows) if wanted else None
        if counts is not None:
            starts = np.concatenate([[0], np.cumsum(counts)])
            if 4 * starts[-1] * self._classes <= MOST_CACHED_BYTES:
                logits = self.logits(settings, split)
                return Lesson(None, CachedAnswers((logits.numpy(),), starts), task.counted)
            if settings.top_k is not None and settings.top_k < self._classes:
                arrays = self.likely(settings, split, int(starts[-1]))
                return Lesson(None, CachedAnswers(arrays, starts), task.counted)
        return Lesson(self.task.load(self.folder(settings)).eval(), counted=task.counted)

    @property
    def _classes(self) -> int:
        """The classes of a prediction: labels, or the tokens of a vocabulary."""
        return len(self.task.facts.labels) or vocabulary_size(self.task.skeleton.config) or 0

    def folder(self, settings: Distillation) -> str:
        """Return the folder or hub name of the teacher.

        The first to ask fine-tunes it; a second process waits for the first.
        """
        if settings.teacher != UNSHARED:
            return settings.teacher
        recipe = self.recipe.model_dump_json(exclude=self.recipe.unknown_before())
        folder = self._cache / digest([self.task.start, recipe])
        with locked(folder):
            read_or_made(folder, _check, self._fine_tune)
        return str(folder)

    @property
    def _cache(self) -> Path:
        return self.task.cache / "teachers"

    def logits(self, settings: Distillation, split: Split) -> Tensor:
        """Return the teacher's logits for all predictions of `split`, (predictions, classes)."""
        path = self._cache / f"logits-{self._identity(settings, split)}.pt"
        with locked(path):
            return read_or_made(
                path,
                lambda there: cast(Tensor, torch.load(there, weights_only=True)),
                lambda draft: torch.save(torch.cat([*self._answers(settings, split)]), draft),
            )

    def likely(
        self, settings: Distillation, split: Split, predictions: int
    ) -> tuple[np.ndarray, ...]:
        """Return the arrays of :class:`Likely` for all `predictions` of `split`; they lie on disk.

        Probabilities depend on the temperature, so each has a file of its own.
        """
        most, hot = settings.top_k, settings.temperature
        assert most is not None
        path = self._cache / f"top-{most}-at-{hot:g}-{self._identity(settings, split)}"

        def write(draft: Path) -> None:
            found = (Likely.of(part, most, hot) for part in self._answers(settings, split))
            write_likely(found, predictions, most, draft)

        with locked(path):
            return read_or_made(path, read_likely, write)

    def _identity(self, settings: Distillation, split: Split) -> str:
        dtype = settings.teacher_dtype
        words = [self.folder(settings), split.identity]
        return digest(words + [dtype] * (dtype != "float32"))

    def _answers(self, settings: Distillation, split: Split) -> Iterator[Tensor]:
        """Yield the teacher's logits that count, (predictions, classes), of all rows in order."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = self.task.load(self.folder(settings)).eval()
        model.to(device, getattr(torch, settings.teacher_dtype))
        loader = torch.utils.data.DataLoader(
            split.rows, batch_size=BATCH, collate_fn=split.collate, generator=torch.Generator()
        )
        for batch in (part for whole in loader for part in in_parts(whole, model)):
            asked = {key: value.to(device) for key, value in batch.items() if key != "labels"}
            with torch.no_grad():
                logits = model(**asked).logits
            yield self.task.task.counted(model, logits.float().cpu(), batch)

    def _fine_tune(self, folder: Path) -> None:
        set_seed(self.recipe.seed)
        split, _ = self.task.splits(self.recipe.max_length, None)
        model = self.task.load()
        steps = optimiser_steps(self.recipe, split.rows)
        train(model, self.recipe, TrainingInputs(split.rows, split.collate, steps))
        model.save_pretrained(folder)


def check_tokens(task: PreparedTask, teacher: str) -> None:
    """Raise :class:`ModelError` if `teacher` comes with another vocabulary than the student's."""
    try:
        read = task.task.reader(expanded(teacher))
    except SharetuneError:
        return  # a folder of weights alone: that its tokens are as many is all that can be said
    own, other = (_words(reader) for reader in (task.task.reader(task.start), read))
    if own != other:
        raise ModelError(
            f"teacher {teacher!r} reads other tokens than the student, though as many",
            "name a model with the student's own tokenizer, or unshared",
        )


def _words(reader: object) -> dict[str, int] | None:
    found = getattr(getattr(reader, "tokenizer", reader), "get_vocab", None)
    return None if found is None else found()


def _check(folder: Path) -> None:
    """Raise an error if the files of the teacher in `folder` are not whole."""
    AutoConfig.from_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt"):
            pass


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
