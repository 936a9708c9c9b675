"""Rows of a model's inputs on disk, made by whoever comes first and read by all workers."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets


def cached_rows(
    cache: Path, split: str, words: list[Any], make: Callable[[], dict[str, Any]]
) -> tuple[datasets.Dataset, str]:
    """What `make` returns as a data set, memory-mapped; and its name. `words` are all that the
    rows depend on beside the split."""
    identity = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
    folder = cache / f"{split}-{identity}"
    if not folder.exists():
        scratch = Path(tempfile.mkdtemp(dir=cache))
        datasets.Dataset.from_dict(make()).save_to_disk(scratch / "rows")
        try:
            (scratch / "rows").rename(folder)
        except OSError:
            if not folder.exists():
                raise
        shutil.rmtree(scratch)
    return datasets.load_from_disk(folder), folder.name
