"""Digest the weights and the data, so that scores of others are noticed."""

import hashlib
from pathlib import Path

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


def data_digest(task: PreparedTask) -> str:
    """Return the digest of the training split."""
    return _digest([task.cache / "train.parquet"])


def _digest(files: list[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]
