"""Checkpoints of long trainings, from which another process continues bit for bit.

The library's `Trainer` keeps optimiser, schedule, random generators and its place in the data. Ours
are the weights, whose layers may be on their way from soft to hard, and what callbacks remember.
"""

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sharetune.trainers.models.softening import harden_, soft_layers

OURS = "training.pt"
"""File of a checkpoint that holds weights and callbacks' states, next to the library's files."""

NAME = re.compile(r"checkpoint-(\d+)$")
"""Name of a checkpoint's folder with its step, as the library gives it."""


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

    Only at steps whose loss is logged: the library forgets the sum since the last log.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        self.folder, self.every_s = folder, every_s
        self.continued_at: list[int] = []
        self._before_s = 0.0
        self._began = self._last = time.monotonic()

    @property
    def latest(self) -> Path | None:
        """The checkpoint to continue from, or None."""
        found = {int(match[1]): path for path, match in _numbered(self.folder)}
        return found[max(found)] if found else None

    @property
    def draft(self) -> Path:
        """The folder in which a checkpoint is written before it counts."""
        return self.folder / "draft"

    @property
    def seconds_before(self) -> float:
        """Seconds that earlier processes trained, up to their last checkpoint."""
        return self._before_s

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note the step at which the training continues."""
        if state.global_step:
            self.continued_at.append(state.global_step)
        self._began = self._last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for a checkpoint when one is due. The Trainer calls this after every step."""
        now = time.monotonic()
        is_logged = state.global_step % int(args.logging_steps) == 0
        if is_logged and state.global_step < state.max_steps and now - self._last >= self.every_s:
            control.should_save = True
            self._last = now

    def memory(self) -> dict[str, Any]:
        seconds = self._before_s + time.monotonic() - self._began
        return {"seconds": seconds, "continued_at": self.continued_at}

    def recall(self, memory: dict[str, Any]) -> None:
        self._before_s = memory["seconds"]
        self.continued_at = memory["continued_at"]

    def place(self) -> None:
        """Make the `draft` the latest checkpoint, atomically, and remove the others."""
        for path, match in _numbered(self.draft):
            path.replace(self.folder / path.name)
            for other, older in _numbered(self.folder):
                if int(older[1]) != int(match[1]):
                    shutil.rmtree(other)


def _numbered(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    paths = list(folder.iterdir()) if folder.is_dir() else []
    return [(path, match) for path in paths if (match := NAME.match(path.name))]


def write(model: nn.Module, callbacks: Sequence[TrainerCallback], folder: Path) -> None:
    """Write the weights as they are, soft layers' own included, and the callbacks' states."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        "weights": model.state_dict(),
        "is_soft": bool(soft_layers(model)),
        "memories": [callback.memory() for callback in _remembering(callbacks)],
    }
    torch.save(kept, folder / OURS)


def read_(model: nn.Module, callbacks: Sequence[TrainerCallback], folder: Path) -> None:
    """Restore in place what :func:`write` wrote; `model` is built as it was at the start."""
    kept = torch.load(folder / OURS, map_location="cpu", weights_only=True)
    if not kept["is_soft"]:
        harden_(model)
    model.load_state_dict(kept["weights"])
    for callback, memory in zip(_remembering(callbacks), kept["memories"], strict=True):
        callback.recall(memory)


def _remembering(callbacks: Sequence[TrainerCallback]) -> list[Remembering]:
    return [callback for callback in callbacks if isinstance(callback, Remembering)]
