"""Cache the rows of a model's inputs on disk, written by the first worker and read by all."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets


def cached_rows(
    cache: Path, split: str, dependencies: list[Any], make: Callable[[], dict[str, Any]]
) -> tuple[datasets.Dataset, str]:
    """Return the rows that `make` makes as a memory-mapped data set, and the name of its folder.

    `dependencies` are all values, besides the split, that the rows depend on; they must be JSON.
    """
    digest = hashlib.sha256(json.dumps(dependencies).encode()).hexdigest()[:16]
    folder = cache / f"{split}-{digest}"
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
