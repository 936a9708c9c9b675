"""Registries: named sets of interchangeable entries such as forms, tasks, losses and samplers."""

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Generic, TypeVar

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.texts import shortened, shown

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Map names to entries, in order of registration.

    `kind` is the word for one entry in messages. With `package`, a dotted name, the modules of
    that package are imported at the first look-up, so that an entry is one file put there.
    Looking up an unknown name raises :class:`ConfigError` with the nearest name and all that are
    available; so does registering a name that is taken.

    What a study file names without torch is declared in a registry of `spaces`; the registry of
    its implementations has that one as `declared` and takes its names only.
    """

    def __init__(
        self,
        kind: str,
        *,
        package: str | None = None,
        declared: "Registry[Any] | None" = None,
    ) -> None:
        self.kind, self.package, self.declared = kind, package, declared
        self._entries: dict[str, Entry] = {}
        self._is_complete = package is None

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorate an entry to enter it under `name`; :class:`ConfigError` if that is taken."""

        def enter(entry: Entry) -> Entry:
            if self.declared is not None:
                self.declared.known(name)
            if name in self._entries:
                raise ConfigError(
                    f"{self.kind} {name!r} is registered already, in {_home(self._entries[name])}",
                    "give the new one another name",
                )
            self._entries[name] = entry
            return entry

        return enter

    def known(self, name: str) -> str:
        """Return `name` if it is registered: the check of a pydantic field that names an entry."""
        self[name]
        return name

    def __getitem__(self, name: str) -> Entry:
        self.complete()
        if not isinstance(name, str) or name not in self._entries:
            raise unknown(self.kind, name, list(self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self.complete()
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        self.complete()
        return iter(self._entries)

    def __len__(self) -> int:
        self.complete()
        return len(self._entries)

    def complete(self) -> None:
        """Import the package's modules, if that has not been done."""
        if self._is_complete:
            return
        self._is_complete = True  # first: the modules look entries up as well
        package = import_module(str(self.package))
        for module in pkgutil.iter_modules(package.__path__):
            import_module(f"{self.package}.{module.name}")


def unknown(kind: str, name: object, available: list[str]) -> ConfigError:
    """Return the error for a `name` that no entry of the registry of a `kind` has."""
    return ConfigError(f"unknown {kind}: {shown(name)}", did_you_mean(str(name), available))


def did_you_mean(name: str, available: list[str]) -> str:
    """Write a hint that names the nearest of `available`, if one is near, and all of them."""
    near = get_close_matches(shortened(str(name)), available, n=1)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}available: {', '.join(available)}"


def summary(entry: object) -> str:
    """Return the first line of an entry's docstring, for listings."""
    return (entry.__doc__ or "").strip().split("\n")[0]


def _home(entry: object) -> str:
    return str(getattr(entry, "__module__", type(entry).__module__))
