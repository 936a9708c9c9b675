"""Modules from outside the package that register forms, tasks, samplers and the like.

A study file names them under `plugins`. Whatever process reads or trains its candidates imports
them first, by :func:`load_plugins`, so that the names they register are known there.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from sharetune.spaces.errors import ConfigError, SharetuneError

SUFFIX = ".py"


def load_plugins(names: Sequence[str], folder: Path | None = None) -> tuple[str, ...]:
    """Import plugins: modules in `folder`, installed modules, or files and packages by their path.

    Returns the names under which any other process on this file system can load them without a
    folder. A plugin that is imported already is not imported again. Raises :class:`ConfigError`.
    """
    return tuple(_load(str(name), folder) for name in names)


def _load(name: str, folder: Path | None) -> str:
    path = _file_of(name, folder)
    module = name if path is None else path.stem
    if path is not None:
        _refuse_another(module, path)
    with _first_on_path(None if path is None else path.parent):
        if module not in sys.modules and not _exists(module):
            raise ConfigError(f"there is no plugin {name!r}", _where(module, folder))
        _import(module)
    return module if path is None else str(path)


def _file_of(name: str, folder: Path | None) -> Path | None:
    """Return the file or package that is meant; None for an installed module."""
    is_path = name.endswith(SUFFIX) or os.sep in name
    if folder is None and not is_path:
        return None
    start = (folder or Path.cwd()) / name
    candidates = [start, start.with_name(f"{start.name}{SUFFIX}")]
    found = next((path for path in candidates if _is_module(path)), None)
    return start if found is None and is_path else found and found.resolve()


def _is_module(path: Path) -> bool:
    return (path / "__init__.py").is_file() or (path.suffix == SUFFIX and path.is_file())


def _refuse_another(module: str, path: Path) -> None:
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if module not in sys.modules:
        return
    if loaded is None or Path(loaded).resolve() not in (path, path / "__init__.py"):
        raise ConfigError(
            f"the plugin {path} is hidden by another module named {module!r}",
            "give its file another name",
        )


@contextmanager
def _first_on_path(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _where(module: str, folder: Path | None) -> str:
    beside = "the study file" if folder is None else str(folder)
    return f"put {module}{SUFFIX} beside {beside}, or install it"


def _import(module: str) -> None:
    try:
        import_module(module)
    except SharetuneError as error:
        raise ConfigError(f"the plugin {module}: {error.message}", error.hint) from error
    except Exception as error:  # whatever its code raises
        raise ConfigError(
            f"the plugin {module} cannot be imported: {type(error).__name__}: {error}",
            f"see what `python -c 'import {module}'` says",
        ) from error
