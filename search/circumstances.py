"""Record the code and the machine that the numbers of a study come from."""

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("sharetune", "torch", "transformers", "ray", "optuna", "datasets", "numpy")
"""Packages whose versions a study stores: those that its numbers depend on."""

GIT_PATIENCE_S = 10
"""Seconds that git may take to describe the checkout, for network file systems."""


def study_circumstances(threads: int) -> dict[str, Any]:
    """Return a study's record of its machine and code; each worker gets `threads` threads."""
    return code() | {
        "threads": threads,
        "device": platform.machine(),
        "cpus": os.cpu_count(),
        "host": platform.node(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@cache
def code() -> dict[str, Any]:
    """Return versions and commit of the code that runs here, and whether it has local changes."""
    return {
        "versions": {"python": platform.python_version()} | dict(_versions()),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in VERSIONS:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


def _git(*arguments: str) -> str | None:
    """Return git's output for the checkout that this code runs from; None outside one."""
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=GIT_PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
