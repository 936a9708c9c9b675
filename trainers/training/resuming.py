"""Checkpoints of long trainings, from which another process continues bit for bit.

The library's `Trainer` keeps optimiser, schedule, random generators and its place in the data. Ours
are the weights, whose layers may be on their way from soft to hard, and what callbacks remember.
"""

import json
import logging
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sharetune.spaces.whole_files import sync, sync_tree
from sharetune.trainers.models.softening import harden_, soft_layers
from sharetune.trainers.training.data_parallel import leads, led
from sharetune.trainers.training.sharding import load_, whole

OURS = "training.pt"
"""File of a checkpoint that holds weights and callbacks' states, next to the library's files."""

NAME = re.compile(r"checkpoint-(\d+)$")
"""Name of a checkpoint's folder with its step, as the library gives it."""

STATE = "trainer_state.json"
"""File of a checkpoint that holds the library's account of the training."""

ARCHIVES = (OURS, "optimizer.pt", "scheduler.pt", "rng_state*.pth")
"""Patterns of the other files of a checkpoint, each a zip archive with checksums."""

KEPT = 2
"""Checkpoints that are kept, so that there is one before the latest if that cannot be read."""

ASIDE = "unreadable-"
"""Begin of the name of a checkpoint that could not be read."""

logger = logging.getLogger(__name__)


class Remembering(TrainerCallback):
    """A callback whose state a checkpoint keeps, as plain data and tensors."""

    def memory(self) -> dict[str, Any]:
        """Return its state."""
        raise NotImplementedError

    def recall(self, memory: dict[str, Any]) -> None:
        """Restore its state from `memory`."""
        raise NotImplementedError


class Checkpoints(Remembering):
    """A callback that writes a checkpoint in `folder` once `every_s` seconds passed since the last.

    Only at steps whose loss is logged: the library forgets the sum since the last log. In a team
    the leader decides; all members read and write the same folder.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        self.folder, self.every_s = folder, every_s
        self.continued_at: list[int] = []
        self.unreadable: list[int] = []
        self._before_s = 0.0
        self._began = self._last = time.monotonic()

    def latest(self) -> Path | None:
        """Return the latest checkpoint that can be read, or None.

        Later ones are put aside, and their steps are noted in `unreadable`.
        """
        step = int(led(self._latest_step))
        return self.folder / f"checkpoint-{step}" if step else None

    def _latest_step(self) -> int:
        found = {int(match[1]): path for path, match in _numbered(self.folder)}
        for step in sorted(found, reverse=True):
            if is_readable(found[step]):
                return step
            logger.warning("the checkpoint %s cannot be read and is put aside", found[step])
            self.unreadable.append(step)
            aside = self.folder / f"{ASIDE}{found[step].name}"
            shutil.rmtree(aside, ignore_errors=True)
            found[step].replace(aside)
        return 0

    @property
    def draft(self) -> Path:
        """The folder in which a checkpoint is written before it counts."""
        return self.folder / "draft"

    @property
    def seconds_before(self) -> float:
        """Seconds that earlier processes trained, up to their last checkpoint."""
        return self._before_s

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Note the step at which the training continues."""
        if state.global_step:
            self.continued_at.append(state.global_step)
        self._began = self._last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Ask for a checkpoint when one is due. The Trainer calls this after every step."""
        now = time.monotonic()
        is_logged = state.global_step % int(args.logging_steps) == 0
        if not is_logged or state.global_step >= state.max_steps:
            return
        if led(lambda: now - self._last >= self.every_s):
            control.should_save = True
            self._last = now

    def memory(self) -> dict[str, Any]:
        seconds = self._before_s + time.monotonic() - self._began
        return {"seconds": seconds, "continued_at": self.continued_at}

    def recall(self, memory: dict[str, Any]) -> None:
        self._before_s = memory["seconds"]
        self.continued_at = memory["continued_at"]

    def place(self, step: int) -> None:
        """Make the draft of `step` the latest checkpoint, atomically, once it is on the disk.

        Of the others the latest stays.
        """
        name = f"checkpoint-{step}"
        sync_tree(self.draft / name)
        (self.draft / name).replace(self.folder / name)
        sync(self.folder)
        others = {int(m[1]): p for p, m in _numbered(self.folder) if int(m[1]) != step}
        for other in sorted(others)[: -(KEPT - 1)]:
            shutil.rmtree(others[other])


def is_readable(checkpoint: Path) -> bool:
    """Say whether the files of a checkpoint are all there and whole, by their checksums."""
    try:
        state = json.loads((checkpoint / STATE).read_text("utf-8"))
        found = [sorted(checkpoint.glob(pattern)) for pattern in ARCHIVES]
        return "global_step" in state and all(
            paths and all(map(_is_whole, paths)) for paths in found
        )
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return False


def _is_whole(archive: Path) -> bool:
    with zipfile.ZipFile(archive) as file:
        return bool(file.namelist()) and file.testzip() is None


def _numbered(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    paths = list(folder.iterdir()) if folder.is_dir() else []
    return [(path, match) for path in paths if (match := NAME.match(path.name))]


def kept(model: nn.Module, callbacks: Sequence[TrainerCallback]) -> dict[str, Any]:
    """Return the weights as they are, soft layers' own included, and the callbacks' states.

    Of a sharded model all members must call it, and the leader gets them.
    """
    found = {
        "weights": model.state_dict(),
        "is_soft": bool(soft_layers(model)),
        "memories": [callback.memory() for callback in _remembering(callbacks)],
    }
    return whole(found, kept=leads())  # type: ignore[no-any-return]


def write(found: dict[str, Any], folder: Path) -> None:
    """Write what :func:`kept` found; in a team the leader does."""
    if leads():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(found, folder / OURS)


def read_(model: nn.Module, callbacks: Sequence[TrainerCallback], folder: Path) -> None:
    """Restore in place what :func:`write` wrote; `model` is built as it was at the start."""
    found = torch.load(folder / OURS, map_location="cpu", weights_only=True)
    if not found["is_soft"]:
        harden_(model)
    load_(model, found["weights"])
    for callback, memory in zip(_remembering(callbacks), found["memories"], strict=True):
        callback.recall(memory)


def _remembering(callbacks: Sequence[TrainerCallback]) -> list[Remembering]:
    return [callback for callback in callbacks if isinstance(callback, Remembering)]
