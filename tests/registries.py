"""Every registry of the four packages."""

import importlib
from functools import cache

from sharetune.spaces.registry import Registry
from tests.paths import ROOT
from tests.structure import House


@cache
def registries() -> dict[str, Registry]:
    """Return every registry by the module and the name under which it is first found."""
    found: dict[int, tuple[str, Registry]] = {}
    for module in sorted(
        House(ROOT).names, key=lambda name: (name.split(".")[0] != "spaces", name)
    ):
        for name, value in vars(importlib.import_module(f"sharetune.{module}")).items():
            if isinstance(value, Registry):
                found.setdefault(id(value), (f"{module}.{name}", value))
    for _, registry in found.values():
        registry.complete()
    return dict(found.values())


def forget_what_is_registered(monkeypatch) -> None:
    """Undo, at the end of a test, what it registers."""
    for registry in registries().values():
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
