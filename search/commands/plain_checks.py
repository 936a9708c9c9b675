"""Find mistakes in names and paths within a second, before anything of torch is imported."""

import ast
import csv
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sharetune.search.commands.doctor import missing_of_extras
from sharetune.search.config import StudyConfig
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.mistakes import missing_column
from sharetune.spaces.paths import require_data, require_model
from sharetune.spaces.registry import unknown

HOME = Path(__file__).resolve().parents[2]
"""The folder of our packages."""


@dataclass(frozen=True)
class Unloaded:
    """A registry whose names are read from the files of its package, without importing them.

    `kind` is the word for one entry, `room` the package's folder, `variable` the registry's name,
    which the package's module ``base`` holds.
    """

    kind: str
    room: str
    variable: str

    def refuse_unknown(self, name: object) -> None:
        """Raise :class:`ConfigError` for a name that is not registered."""
        known = self.names()
        if name not in known:
            raise unknown(self.kind, name, known)

    def names(self) -> list[str]:
        """Return the registered names; also those of plugins, which have imported the package."""
        base = sys.modules.get(f"sharetune.{self.room.replace('/', '.')}.base")
        if base is not None:
            return list(getattr(base, self.variable))
        return sorted({*self._registered()})

    def nodes(self) -> Iterator[ast.AST]:
        """Yield everything that the package's files say, as Python parses it."""
        for file in sorted((HOME / self.room).glob("*.py")):
            yield from ast.walk(ast.parse(file.read_text("utf-8")))

    def _registered(self) -> Iterator[str]:
        for node in self.nodes():
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=self.variable), attr="register"),
                    args=[ast.Constant(value=str(name))],
                ):
                    yield name


TASKS = Unloaded("task", "trainers/tasks", "TASKS")
"""Tasks."""

EXPORTS = Unloaded("export format", "trainers/exports", "EXPORTS")
"""Formats of exports."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Separators of the tables whose first line names the columns."""

SPLITS = ("train", "validation", "test")
"""Keys of a task that name data."""


def refuse_wrong_names(config: StudyConfig) -> None:
    """Raise :class:`SharetuneError` for a model, data, task or export that a study misspells."""
    require_model(config.model, config.folder)
    refuse_wrong_task(config.task, config.folder)
    for name in config.exports:
        EXPORTS.refuse_unknown(name)
    for form in config.latency.forms if config.latency.rounds else ():
        require_extra(f"latency.forms: {form}", form)
    for tracker in config.tracking:
        require_extra(f"tracking: {tracker}", tracker)


def refuse_wrong_task(task: Mapping[str, Any], folder: Path | None = None) -> None:
    """Raise :class:`SharetuneError` for a task's name, or files of its data, that do not exist.

    `folder` is the one that relative paths are looked up from; None: the working directory.
    """
    if "name" in task:
        TASKS.refuse_unknown(task["name"])
    asked = {key: task[key] for key in _keys_of_columns() & set(task)}
    for split in SPLITS:
        if isinstance(source := task.get(split), str):
            require_data(source, folder)
            _refuse_wrong_columns(source, folder, asked)


def _refuse_wrong_columns(source: str, folder: Path | None, asked: Mapping[str, Any]) -> None:
    """Raise :class:`DataError` if a table has not the columns that are `asked` of it by key.

    Tables whose columns are not to be had at once are left for later.
    """
    columns = _columns((folder or Path()) / source) if asked else []
    for key, name in asked.items():
        if columns and isinstance(name, str) and name not in columns:
            raise missing_column(source, key, repr(name), columns)


def _columns(path: Path) -> list[str]:
    """Return the columns that a file of comma- or tab-separated values begins with; else none."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None or not path.is_file():
        return []
    with suppress(UnicodeDecodeError, csv.Error, OSError), path.open(encoding="utf-8-sig") as file:
        return next(csv.reader(file, delimiter=delimiter), [])
    return []


def _keys_of_columns() -> set[str]:
    """Return the keys of tasks that name a column, which their descriptions begin with."""
    found = set()
    for node in TASKS.nodes():
        match node:
            case ast.AnnAssign(target=ast.Name(id=key), value=ast.Call(keywords=keywords)):
                texts = [ast.unparse(each.value) for each in keywords if each.arg == "description"]
                found |= {key for text in texts if text.strip("'\"").startswith("column of ")}
    return found


def require_extra(what: str, name: str) -> None:
    """Raise :class:`ConfigError` if `what` needs packages that are not installed.

    They are those of the extra `name`, up to a hyphen; what has no such extra needs none.
    """
    extra = name.split("-")[0]
    missing = [
        package
        for package in missing_of_extras().get(extra, ())
        if find_spec(package.replace("-", "_")) is None
    ]
    if missing:
        raise ConfigError(
            f"{what} needs {', '.join(missing)}, which is not installed",
            f"pip install 'sharetune[{extra}]'",
        )
