"""Write files and folders whole: after a kill or a power cut a reader finds the old or the new.

A draft is synced before it takes its name, and the folder after that. The drafts' names begin with
a point and end in ``.part``.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
"""The file in which Linux tells a process of itself."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield the name of a draft, a file or a folder, that takes the place of `path` at the end.

    A folder takes the place of none or of an empty one. After an error the draft is removed and
    `path` is as it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        follow_umask(draft)
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


def follow_umask(path: Path) -> None:
    """Give a file or a folder, with all in it, the rights that the umask leaves to new ones.

    Only what its owner alone may read is changed: temporary files and folders are made so, and
    some libraries write weights into such ones first.
    """
    allowed = ~_umask()
    for each in [path, *(path.rglob("*") if path.is_dir() else ())]:
        mode = each.lstat().st_mode
        if stat.S_ISREG(mode) and stat.S_IMODE(mode) == 0o600:
            each.chmod(0o666 & allowed)
        elif stat.S_ISDIR(mode) and stat.S_IMODE(mode) == 0o700:
            each.chmod(0o777 & allowed)


def _umask() -> int:
    """Return the umask; where the system has no file that says so, by setting it for a moment."""
    with suppress(OSError):
        found = re.search(r"^Umask:\s*([0-7]+)$", STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1], 8)
    os.umask(mask := os.umask(0o077))
    return mask


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
