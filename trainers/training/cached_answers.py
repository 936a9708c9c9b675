"""A teacher's answers to all rows of a training split, computed once and read with the rows.

They are its whole logits, or the most likely classes of each and what the others have together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ANSWERS = "teacher_logits"
"""Key of a batch under which the teacher's answers to it lie, as tensors (predictions, ...)."""

FILES = ("classes.npy", "logs.npy")
"""Files of a folder of most likely classes."""


@dataclass(frozen=True)
class Likely:
    """The k most likely classes of each prediction; all others count as one further class.

    `classes` (predictions, k) are their numbers, `logs` (predictions, k + 1) the logarithms of
    their probabilities at the temperature of the distillation, and that of all others last.
    """

    classes: Tensor
    logs: Tensor

    @classmethod
    def of(cls, logits: Tensor, most: int, temperature: float) -> "Likely":
        """Return the `most` likely classes of logits (predictions, classes), fewer than all."""
        logs = (logits.float() / temperature).log_softmax(-1)
        classes = logs.topk(most, -1).indices
        return cls(classes, cls(classes, logs).of_the_same(logs))

    def of_the_same(self, logs: Tensor) -> Tensor:
        """Return the log probabilities (predictions, k + 1) of the same classes in `logs`.

        `logs` (predictions, classes) are another model's. The KL divergence of the k + 1 classes is
        at most that of all.
        """
        classes = self.classes.long()
        others = logs.scatter(-1, classes, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([logs.gather(-1, classes), others], -1)


@dataclass(frozen=True)
class CachedAnswers:
    """Answers to all rows: arrays (predictions, ...), of which row i has ``starts[i:i + 2]``.

    One array holds logits, two hold :class:`Likely`. They may lie on disk.
    """

    arrays: tuple[np.ndarray, ...]
    starts: np.ndarray

    def row(self, number: int) -> tuple[Tensor, ...]:
        """Return copies of the answers to one row."""
        place = slice(self.starts[number], self.starts[number + 1])
        return tuple(torch.from_numpy(np.array(array[place])) for array in self.arrays)


class Taught(torch.utils.data.Dataset):
    """Rows with the teacher's answers to each; `rows` may be a part of those answered."""

    def __init__(self, rows: Any, answers: CachedAnswers) -> None:
        self.rows, self.answers = rows, answers
        part = isinstance(rows, torch.utils.data.Subset)
        self.numbers: Sequence[int] = rows.indices if part else range(len(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], ANSWERS: self.answers.row(self.numbers[index])}


def taught_collate(collate: Callable[[list[dict[str, Any]]], Any]) -> Callable[..., Any]:
    """Wrap `collate` for rows of :class:`Taught`."""

    def together(rows: list[dict[str, Any]]) -> Any:
        answers = zip(*[row.pop(ANSWERS) for row in rows], strict=True)
        return {**collate(rows), ANSWERS: tuple(torch.cat(parts) for parts in answers)}

    return together


def write_likely(found: Iterable[Likely], predictions: int, most: int, folder: Path) -> None:
    """Write what `found` yields, `predictions` in all, into `folder`, a part at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = ((np.int32, most), (np.float32, most + 1))
    files = [
        np.lib.format.open_memmap(folder / name, "w+", kind, (predictions, columns))
        for name, (kind, columns) in zip(FILES, shapes, strict=True)
    ]
    start = 0
    for part in found:
        end = start + len(part.classes)
        files[0][start:end], files[1][start:end] = part.classes.cpu(), part.logs.cpu()
        start = end
    for file in files:
        file.flush()


def read_likely(folder: Path) -> tuple[np.ndarray, ...]:
    """Return the arrays that :func:`write_likely` wrote; they stay on disk."""
    return tuple(np.load(folder / name, mmap_mode="r") for name in FILES)
