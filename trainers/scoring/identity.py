"""Digest the weights and the data, so that scores of others are noticed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sharetune.spaces.paths import expanded
from sharetune.trainers.data.new_models import is_configuration_only
from sharetune.trainers.data.streams import rows_of
from sharetune.trainers.tasks.base import PreparedTask

WEIGHTS = ("*.safetensors", "*.bin")
"""Files of a checkpoint that hold weights."""


def weights_digest(task: PreparedTask) -> str:
    """Return the digest of the weights that candidates start from: of a hub model, its revision."""
    folder = Path(task.start)
    files = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
    if files:
        return _digest(files)
    revision = getattr(task.skeleton.config, "_commit_hash", None)
    return f"{task.start}@{revision}"


def checkpoint_digest(task: PreparedTask) -> str:
    """Return the digest of the weights, or of the configuration of a model without any."""
    model = expanded(task.model)
    if is_configuration_only(model):
        return _digest([Path(model) / "config.json"])
    return weights_digest(task)


def data_digest(task: PreparedTask) -> str:
    """Return the digest of the training split's file."""
    return _digest([task.cache / "train.parquet"])


def rows_digest(task: PreparedTask, splits: Sequence[str]) -> str:
    """Return the digest of the rows of these splits, whatever version has written them."""
    found = hashlib.sha256()
    for split in splits:
        for row in rows_of(task.cache / f"{split}.parquet"):
            found.update(repr(row).encode())
    return found.hexdigest()[:16]


def _digest(files: list[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]
