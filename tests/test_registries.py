"""Registries: what is declared is implemented, and no second list repeats the names."""

import importlib

import pytest

from sharetune.spaces.registry import Registry
from tests.paths import ROOT
from tests.structure import House

HOUSE = House(ROOT)


def registries():
    """Return every registry of the four packages with its home, each once."""
    found = {}
    for module in sorted(HOUSE.names):
        for name, value in vars(importlib.import_module(f"sharetune.{module}")).items():
            if isinstance(value, Registry):
                found.setdefault(id(value), (f"{module}.{name}", value))
    return dict(found.values())


ALL = registries()
IMPLEMENTED = {home: registry for home, registry in ALL.items() if registry.declared is not None}


def needed(registry):
    """Return the declared names that must have an implementation."""
    return {
        name
        for name, entry in registry.declared.items()
        if not getattr(entry, "removes_layers", False)  # nothing reads a layer that is gone
        and getattr(entry, "source", registry.source) == registry.source
    }


@pytest.mark.parametrize("home", IMPLEMENTED)
def test_what_is_declared_is_implemented_and_the_reverse(home):
    registry = IMPLEMENTED[home]
    assert set(registry) - registry.built_in == needed(registry)
