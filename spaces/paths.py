"""Paths with environment variables, which differ between machines."""

import os
import re
from typing import Any

from sharetune.spaces.errors import ConfigError

VARIABLE = re.compile(r"\$\{?(\w+)\}?")
"""``$NAME`` or ``${NAME}``."""


def expanded(path: str) -> str:
    """Replace ``${NAME}`` in `path` by this machine's environment variables.

    Raises :class:`ConfigError` for one that is not set.
    """
    missing = [name for name in VARIABLE.findall(path) if name not in os.environ]
    if missing:
        raise ConfigError(
            f"{path} names the environment variable {missing[0]}, which is not set here",
            f"set {missing[0]} on every machine, for workers before `ray start`",
        )
    return os.path.expandvars(path)


def relocated(data: Any, old: str, new: str) -> Any:
    """Return plain data in which paths in the folder `old` are ones in the folder `new`."""
    if isinstance(data, dict):
        return {key: relocated(value, old, new) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [relocated(value, old, new) for value in data]
    if isinstance(data, str) and (data == old or data.startswith(f"{old}/")):
        return new + data.removeprefix(old)
    return data
