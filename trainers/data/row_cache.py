"""Cache what is prepared once on disk: made by the first worker, made anew if damaged."""

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import datasets

from sharetune.spaces.digest import digest
from sharetune.spaces.whole_files import remove, written_whole

Cached = TypeVar("Cached")

logger = logging.getLogger(__name__)


def read_or_made(
    path: Path, read: Callable[[Path], Cached], make: Callable[[Path], None]
) -> Cached:
    """Read the file or folder `path`; if there is none that can be read, make it first.

    `make` writes to the path it is given. Of several processes that make it the first one counts.
    """
    if path.exists():
        try:
            return read(path)
        except Exception as error:  # each format has its own
            logger.warning("%s cannot be read and is made anew: %s", path, error)
            remove(path)
    try:
        with written_whole(path) as draft:
            make(draft)
    except OSError:
        if not path.exists():
            raise
    return read(path)


def cached_rows(
    cache: Path,
    split: str,
    dependencies: list[Any],
    make: Callable[[], Iterator[dict[str, Any]]],
) -> tuple[datasets.Dataset, str]:
    """Return the rows that `make` makes as a memory-mapped data set, and the name of its folder.

    It makes them in parts, of which one is in memory at a time. `dependencies` are all values,
    besides the split, that the rows depend on; they must be JSON.
    """
    folder = cache / f"{split}-{digest(dependencies)}"

    def write(draft: Path) -> None:
        parts = make()
        first, second = next(parts), next(parts, None)
        if second is None:
            datasets.Dataset.from_dict(first).save_to_disk(draft)
            return
        for number, part in enumerate(chain([first, second], parts)):
            datasets.Dataset.from_dict(part).save_to_disk(draft / f"{number:06d}")

    return read_or_made(folder, _load, write), folder.name


def _load(folder: Path) -> datasets.Dataset:
    if (folder / "state.json").exists():
        return datasets.load_from_disk(folder)
    parts = [datasets.load_from_disk(part) for part in sorted(folder.iterdir())]
    return datasets.concatenate_datasets(parts)
