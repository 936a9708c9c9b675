"""Teachers: the study's unshared model, fine-tuned once whoever asks first, or a checkpoint.

All lies in the cache of the run: a teacher's folder, and its logits for the training split.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.tasks.base import Split, Task
from sharetune.trainers.tasks.prediction import predict
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.trainer import optimiser_steps, train

MOST_CACHED_BYTES = 256 * 2**20


@dataclass(frozen=True)
class School:
    """Where teachers come from: checkpoint, task, its facts and the cache of a study."""

    model: str
    task: Task
    facts: dict[str, Any]
    cache: Path

    def lesson(self, settings: Distillation, recipe: Recipe, split: Split) -> Lesson:
        """What a student of `split` learns from; `recipe` is the unshared teacher's.

        The teacher's logits are computed once and kept, where nothing else of it is used and they
        take at most 256 MiB."""
        size = 4 * len(split.rows) * len(self.facts["labels"])
        if settings.hidden or settings.relations or size > MOST_CACHED_BYTES:
            return Lesson(self.task.load(self.folder(settings, recipe), self.facts).eval())
        return Lesson(logits=self.logits(settings, recipe, split))

    def folder(self, settings: Distillation, recipe: Recipe) -> str:
        """Folder or hub name of the fine-tuned teacher. The unshared model learns by `recipe` if
        nobody made it do so before; a second process waits for the first."""
        if settings.teacher != UNSHARED:
            return settings.teacher
        folder = self.cache / "teachers" / _digest(self.model, recipe.model_dump_json())
        with locked(folder):
            if not folder.exists():
                self._fine_tune(recipe, folder)
        return str(folder)

    def logits(self, settings: Distillation, recipe: Recipe, split: Split) -> Tensor:
        """The teacher's logits for all of `split`, (examples, classes)."""
        name = self.folder(settings, recipe)
        identity = _digest(name, split.identity)
        path = self.cache / "teachers" / f"logits-{identity}.pt"
        with locked(path):
            if not path.exists():
                self._answer_all(self.task.load(name, self.facts), split, path)
        logits: Tensor = torch.load(path, weights_only=True)
        return logits

    def _fine_tune(self, recipe: Recipe, folder: Path) -> None:
        set_seed(recipe.seed)
        split, _ = self.task.splits(self.model, self.cache, recipe.max_length)
        model = self.task.load(self.model, self.facts)
        steps = optimiser_steps(recipe, len(split.rows))
        train(model, recipe, data=split.rows, collate=split.collate, total_steps=steps)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        model.save_pretrained(scratch / "model")
        (scratch / "model").rename(folder)
        shutil.rmtree(scratch)

    def _answer_all(self, model: PreTrainedModel, split: Split, path: Path) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        logits = predict(model.to(device), data=_Unlabelled(split.rows), collate=split.collate)
        scratch = path.with_suffix(f".{os.getpid()}")
        torch.save(logits, scratch)
        scratch.replace(path)


class _Unlabelled:
    """Rows without their labels, in order."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: value for key, value in self.rows[index].items() if key != "labels"}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, no other process is, on this file system. The lock ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.parent / f".{path.name}.lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _digest(*words: str) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
