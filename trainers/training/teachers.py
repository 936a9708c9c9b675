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
from sharetune.trainers.tasks.base import PreparedTask, Split
from sharetune.trainers.tasks.prediction import predict
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.trainer import optimiser_steps, train

MOST_CACHED_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Teachers:
    """The teachers of one study; the unshared model becomes one by `recipe`."""

    task: PreparedTask
    recipe: Recipe

    def lesson(self, settings: Distillation, split: Split) -> Lesson:
        """Return what a student of `split` learns from.

        The teacher's logits are computed once and kept, where nothing else of it is used and they
        take at most 256 MiB."""
        size = 4 * len(split.rows) * len(self.task.facts.labels)
        if settings.hidden or settings.relations or size > MOST_CACHED_BYTES:
            return Lesson(self.task.load(self.folder(settings)).eval())
        return Lesson(logits=self.logits(settings, split))

    def folder(self, settings: Distillation) -> str:
        """Return the folder or hub name of the teacher, fine-tuned by the first to ask; a second
        process waits for the first."""
        if settings.teacher != UNSHARED:
            return settings.teacher
        folder = self._cache / _digest(self.task.start, self.recipe.model_dump_json())
        with locked(folder):
            if not folder.exists():
                self._fine_tune(folder)
        return str(folder)

    @property
    def _cache(self) -> Path:
        return self.task.cache / "teachers"

    def logits(self, settings: Distillation, split: Split) -> Tensor:
        """Return the teacher's logits for all of `split`, (examples, classes)."""
        name = self.folder(settings)
        identity = _digest(name, split.identity)
        path = self._cache / f"logits-{identity}.pt"
        with locked(path):
            if not path.exists():
                self._answer_all(self.task.load(name), split, path)
        logits: Tensor = torch.load(path, weights_only=True)
        return logits

    def _fine_tune(self, folder: Path) -> None:
        set_seed(self.recipe.seed)
        split, _ = self.task.splits(self.recipe.max_length, None)
        model = self.task.load()
        steps = optimiser_steps(self.recipe, len(split.rows))
        train(model, self.recipe, data=split.rows, collate=split.collate, total_steps=steps)
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
