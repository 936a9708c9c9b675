"""Lock a run folder, so that one driver writes in it.

The lock is on the folder itself, which cannot be removed while it holds a study. A file system that
locks files only, such as NFS, gets a file to lock; the token in the study (`writer.py`) notices a
second driver where that file was removed.
"""

import fcntl
import os

from sharetune.spaces.errors import RunError
from sharetune.spaces.run_folder import RunFolder


def lock_folder(run: RunFolder) -> int:
    """Lock an existing run folder and return the handle that holds the lock until it is closed.

    Raises :class:`RunError` if another process holds it, or the file system knows no locks.
    """
    for path, flags in ((run.path, os.O_RDONLY), (run.lock, os.O_CREAT | os.O_RDWR)):
        handle = os.open(path, flags, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            os.close(handle)
            raise held(str(run.path)) from None
        except OSError as error:
            os.close(handle)
            unknown = error
    raise RunError(
        f"the file system of {run.path} knows no locks ({unknown.strerror}), so nothing keeps two "
        "searches apart",
        "choose a folder on a local disk with --out, or keep the study in PostgreSQL (`storage` in "
        "the study file); removing files does not help",
    )


def held(what: str) -> RunError:
    """Return the error for a study or a folder that another search holds."""
    return RunError(
        f"another search is running on {what}", "wait for it, or choose another folder with --out"
    )
