"""A PostgreSQL server of one's own, in a folder that is gone afterwards."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEBIAN = Path("/usr/lib/postgresql")
SETTINGS = "-c listen_addresses= -c fsync=off -c shared_buffers=16MB -c max_connections=20"


def binaries() -> Path | None:
    """The folder of a server's programs, of the newest version that is installed."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


@contextmanager
def server() -> Iterator[str]:
    """The URL of a database on a server that listens on a socket in a temporary folder."""
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="pg-") as scratch:
        folder = Path(scratch)
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        data = folder / "data"
        _as_postgres(
            programs / "initdb", "-D", data, "--auth=trust", "--no-sync", "-U", "sharetune"
        )
        log, options = folder / "log", f"{SETTINGS} -c unix_socket_directories={folder}"
        control = (programs / "pg_ctl", "-D", data, "-w")
        _as_postgres(*control, "-l", log, "-o", options, "start")
        try:
            yield f"postgresql://sharetune@/postgres?host={folder}"
        finally:
            _as_postgres(*control, "-m", "immediate", "stop")


def _as_postgres(*command: object) -> None:
    """The server refuses to run as root."""
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    subprocess.run(
        [*user, *map(str, command)], check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=120
    )
