"""A named set of interchangeable things: assignments, forms, tasks, losses, objectives."""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

from spaces.errors import ConfigError

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Entries by name, in order of registration.

    `kind` is the word for one entry in messages. Looking up an unknown name raises
    :class:`ConfigError` with the nearest name and all that are available.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that enters what it decorates under `name`."""

        def enter(entry: Entry) -> Entry:
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise ConfigError(
                f"unknown {self.kind}: {name!r}",
                did_you_mean(name, list(self._entries)),
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def did_you_mean(name: str, available: list[str]) -> str:
    """A hint that names the nearest of `available`, if one is near, and all of them."""
    near = get_close_matches(name, available, n=1)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}available: {', '.join(available)}"


def summary(entry: object) -> str:
    """The first line of an entry's docstring, for listings."""
    return (entry.__doc__ or "").strip().split("\n")[0]
