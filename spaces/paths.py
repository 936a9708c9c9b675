"""Paths that users write: with environment variables, and of files and folders that are missing."""

import os
import re
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import Any

from sharetune.spaces.errors import ConfigError, DataError, ModelError

VARIABLE = re.compile(r"\$\{?(\w+)\}?")
"""``$NAME`` or ``${NAME}``."""

SUFFIXES = (
    *(".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt"),
    *(".gz", ".bz2", ".xz", ".zst"),
)
"""Endings by which the name of data is a path even if no such file exists."""

PATTERN = frozenset("*?[")
"""Letters by which a name of data stands for several files."""

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""The name of a model of the hub: with its owner's before a slash, or without."""


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


def require_model(model: str, folder: Path | None = None) -> None:
    """Raise :class:`ModelError` for a model that is written as a path, where no such folder is.

    Relative paths are looked up from `folder`, the study file's; None: from the working directory.
    """
    path = (folder or Path()) / expanded(model)
    if path.is_file():
        raise ModelError(f"{model} is a file", "name the folder of a saved model, with config.json")
    if not path.exists() and _can_only_be_a_path(model, path):
        raise ModelError(f"no such folder: {model}", f"{_near(path)}{_looked_up(model, folder)}")


def require_data(source: str, folder: Path | None = None) -> None:
    """Raise :class:`DataError` for data that are written as a path, where no such file is.

    `folder` is as in :func:`require_model`.
    """
    path = (folder or Path()) / source
    if path.exists():
        return
    hint = f"{_near(path)}{_looked_up(source, folder)}"
    if PATTERN & set(source):
        if not glob(str(path)):
            raise DataError(f"no data files match {source}", hint)
    elif path.suffix.lower() in SUFFIXES:
        raise DataError(f"no such data file: {source}", hint)
    elif source.startswith(("/", "./", "../", "~")) and not _without_configuration(path).exists():
        raise DataError(f"no such data file or folder: {source}", hint)


def _without_configuration(path: Path) -> Path:
    """Return a folder of data without the name of a configuration, which follows a colon."""
    return path.with_name(path.name.partition(":")[0] or ".")


def _can_only_be_a_path(model: str, path: Path) -> bool:
    """Return whether no model of the hub can have this name, or a folder here holds its owner's."""
    is_hub_name = HUB_NAME.fullmatch(model) and not model.startswith(".")
    return not is_hub_name or ("/" in model and path.parent.is_dir())


def _near(path: Path) -> str:
    """Ask for the file or folder of the most similar name, where there is one."""
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1)
    return f"did you mean {str(path.with_name(near[0]))!r}? " if near else ""


def _looked_up(name: str, folder: Path | None) -> str:
    """Say where a path was looked for, or what is wrong with the way it is written."""
    if name.startswith("~"):
        return f"write the home folder out: {Path(name).expanduser()}"
    if Path(name).is_absolute():
        return "in a study file, paths are relative to that file"
    where = "the study file's folder" if folder else "the working directory"
    return f"paths are relative to {where}, {(folder or Path()).resolve()}"
