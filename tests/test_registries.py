"""Registries: what is declared is implemented, and no second list repeats the names."""

import ast
import importlib
import re

import pytest

from sharetune.search.commands.listing import KINDS
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.registry import Registry, summary
from sharetune.trainers.measuring.quiet import QUIET
from sharetune.trainers.measuring.sizes import facts
from tests.families import inputs_of, tiny
from tests.paths import ROOT
from tests.registries import registries
from tests.structure import House

ALL = registries()
IMPLEMENTED = {
    home: registry
    for home, registry in ALL.items()
    if registry.declared is not None and registry.declared is not OBJECTIVES
}


@pytest.mark.parametrize("home", IMPLEMENTED)
def test_what_is_declared_is_implemented_and_the_reverse(home):
    registry = IMPLEMENTED[home]
    declared = {
        name
        for name, entry in registry.declared.items()
        if getattr(entry, "shares", True)  # without a bank there is nothing to build
    }
    assert set(registry) == declared


def test_which_registries_implement_what_spaces_declares():
    assert sorted(home.rpartition(".")[2] for home in IMPLEMENTED) == [
        *("ATTACKS", "BUILDERS", "COMPRESSORS", "ORDERS", "SCHEDULES")
    ]


def test_every_objective_is_measured():
    exact = {o.name for o in OBJECTIVES.values() if o.source == "exact"}
    quiet = {o.name for o in OBJECTIVES.values() if o.source == "quiet"}
    assert exact <= set(facts(tiny("bert"), tiny("bert"), inputs_of(tiny("bert"))))
    assert quiet == {"latency_ms", *QUIET}


@pytest.mark.parametrize("home", ALL)
def test_every_entry_says_what_it_is(home):
    registry = ALL[home]
    if registry is not OBJECTIVES:  # these have titles
        for name, entry in registry.items():
            assert summary(entry), name


def literals():
    """Yield each ``Literal[...]`` of the four packages: its file and its texts."""
    for name, tree in House(ROOT).trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
                yield name, {c.value for c in ast.walk(node.slice) if isinstance(c, ast.Constant)}


def test_no_literal_repeats_the_names_of_what_is_registered():
    found = list(literals())
    assert len(found) > 5
    for home, registry in ALL.items():
        for name, texts in found:
            assert not (texts and texts <= set(registry)), (home, name, texts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed(kind):
    entries = KINDS[kind]()
    assert entries
    assert all(entries.values())


def test_an_implementation_without_a_declaration_is_refused():
    declared: Registry[str] = Registry("colour")
    declared.register("red")("red")
    paints: Registry[str] = Registry("colour", declared=declared)
    paints.register("red")("paint")
    with pytest.raises(ConfigError, match="unknown colour: 'rad'") as caught:
        paints.register("rad")("paint")
    assert caught.value.hint == "did you mean 'red'? available: red"


def test_a_name_that_is_taken_is_refused():
    registry: Registry[type] = Registry("colour")
    registry.register("red")(Registry)
    with pytest.raises(ConfigError, match="colour 'red' is registered already, in sharetune.spac"):
        registry.register("red")(Registry)


def test_contributing_names_every_registry():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`sharetune\.([a-z_.]+\.[A-Z_]+)`", text))
    found = {id(registry) for registry in ALL.values()}
    for home in named:
        module, _, attribute = home.rpartition(".")
        found -= {id(getattr(importlib.import_module(f"sharetune.{module}"), attribute))}
    assert [home for home, registry in ALL.items() if id(registry) in found] == []
