"""Write files and folders whole: after a kill or a power cut a reader finds the old or the new.

A draft is synced before it takes its name, and the folder after that. The drafts' names begin with
a point and end in ``.part``.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield the name of a draft, a file or a folder, that takes the place of `path` at the end.

    A folder takes the place of none or of an empty one. After an error the draft is removed and
    `path` is as it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        sync_tree(draft)
        draft.replace(path)
    except BaseException:
        remove(draft)
        raise
    sync(path.parent)


def write_whole(path: Path, text: str) -> Path:
    """Write a text file whole and return its path."""
    with written_whole(path) as draft:
        draft.write_text(text, "utf-8")
    return path


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)


def sync_tree(path: Path) -> None:
    """Sync a file, or a folder with all that is in it, to its disk."""
    inside = sorted(path.rglob("*"), reverse=True) if path.is_dir() else []
    for each in [*inside, path]:
        if not each.is_symlink():
            sync(each)


def sync_within(path: Path, folder: Path) -> None:
    """Sync what :func:`sync_tree` does, and the names of all folders from `path` up to `folder`."""
    sync_tree(path)
    for parent in path.parents:
        sync(parent)
        if parent == folder:
            return


def sync(path: Path) -> None:
    """Sync one file, or the names in one folder; file systems that cannot sync folders do not."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
