"""Plugins: modules beside a study file, installed ones, and what goes wrong with them."""

import sys

import pytest

from sharetune.search.study_file import load_config
from sharetune.spaces.assignments import ASSIGNMENTS
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.plugins import load_plugins
from tests.search.studies import GOOD, write_study_file

ENDS = """
from sharetune.spaces.assignments import ASSIGNMENTS

@ASSIGNMENTS.register("plugged-ends")
def ends(n_layers, _):
    return [0, *range(1, n_layers - 1), 0]
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Forget what a test imports and registers."""
    monkeypatch.setattr(ASSIGNMENTS, "_entries", dict(ASSIGNMENTS._entries))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("plugged"):
            del sys.modules[name]


def plugged(folder, text=ENDS, name="plugged_ends"):
    (folder / f"{name}.py").write_text(text)
    return name


def test_what_a_plugin_beside_the_study_file_registers_is_known_in_it(tmp_path):
    plan = [{"layers": "0..-1", "assign": "plugged-ends"}]
    change = {"plugins": [plugged(tmp_path)], "plans": [{"groups": plan}]}
    path = list(sys.path)
    config = load_config(write_study_file(tmp_path, GOOD | change))
    assert config.plans[0].groups[0].assign.name == "plugged-ends"
    assert config.plugins == (str(tmp_path / "plugged_ends.py"),)
    assert sys.path == path


def test_the_names_a_study_keeps_load_it_anywhere_and_once(tmp_path):
    names = load_plugins([plugged(tmp_path)], tmp_path)
    assert load_plugins(names) == names
    del sys.modules["plugged_ends"], ASSIGNMENTS._entries["plugged-ends"]
    assert load_plugins(names) == names
    assert "plugged-ends" in ASSIGNMENTS


def test_a_package_beside_the_study_file(tmp_path):
    (tmp_path / "plugged_package").mkdir()
    (tmp_path / "plugged_package" / "__init__.py").write_text("from .inner import ends")
    (tmp_path / "plugged_package" / "inner.py").write_text(ENDS)
    names = load_plugins(["plugged_package"], tmp_path)
    assert names == (str(tmp_path / "plugged_package"),)
    assert load_plugins(names) == names
    assert "plugged-ends" in ASSIGNMENTS


def test_an_installed_module_keeps_its_name(tmp_path):
    assert load_plugins(["json.tool"], tmp_path) == ("json.tool",)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero", "python -c"),
        ("import no_such_thing", "cannot be imported: ModuleNotFoundError", "python -c"),
        (ENDS.replace("plugged-ends", "cycle"), "assignment 'cycle' is registered already", "name"),
    ],
)
def test_a_plugin_that_cannot_be_imported(tmp_path, text, message, hint):
    with pytest.raises(ConfigError) as caught:
        load_plugins([plugged(tmp_path, text, "plugged_wrong")], tmp_path)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_plugin_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no plugin 'plugged_not'") as caught:
        load_plugins(["plugged_not"], tmp_path)
    assert caught.value.hint == f"put plugged_not.py beside {tmp_path}, or install it"


def test_a_plugin_with_the_name_of_another_module(tmp_path):
    with pytest.raises(ConfigError, match="is hidden by another module named 'json'"):
        load_plugins([plugged(tmp_path, ENDS, "json")], tmp_path)
