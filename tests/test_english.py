"""Docstrings read at once: their first lines say verb, object and unit, in the field's words."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.paths import ROOT
from tests.structure import PACKAGES

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

REFUSED_STARTS = re.compile(r"(what|whether all that|how many of)\b", re.I)
"""Beginnings after which a reader must wait for the verb."""

REFUSED_IN_FIRST_LINES = re.compile(r"\b(told|beside)\b")
"""Words for "reported" and "next to"; further down they may mean what they usually mean."""

REFUSED = re.compile(r"\bso[ -]man(y|ieth)\b|\blacks\b|\bfor want of\b|\bheeds\b|\bwhoever\b", re.I)
"""Words that a reader must translate into the field's."""


def documented() -> Iterator[tuple[str, str]]:
    """Yield the file and line, and the text, of each docstring and literal after an assignment."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    for path in sorted([*paths, *(ROOT / "sharetune").glob("*.py")]):
        name = path.relative_to(ROOT).as_posix()
        for line, text in docstrings(ast.parse(path.read_text("utf-8"))):
            yield f"{name}:{line}", text


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED):
            for statement in node.body:
                match statement:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        yield statement.lineno, text.strip()


def faults(text: str) -> list[str]:
    first = text.split("\n")[0]
    return [
        found[0]
        for found in (
            REFUSED_STARTS.match(text),
            REFUSED_IN_FIRST_LINES.search(first),
            REFUSED.search(text),
        )
        if found
    ]


def test_no_docstring_must_be_decoded():
    found = {place: faults(text) for place, text in documented() if faults(text)}
    assert not found, "\n".join(f"{place}: {words}" for place, words in found.items())


def test_no_word_of_tests_and_benchmarks_must_be_decoded():
    paths = [p for folder in ("tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    texts = ((p, text) for p in paths for _, text in docstrings(ast.parse(p.read_text("utf-8"))))
    assert not [(p.name, found[0]) for p, text in texts if (found := REFUSED.search(text))]


def test_the_docstrings_are_found():
    places = [place for place, _ in documented()]
    assert sum(place.startswith("trainers/models/") for place in places) > 150
    assert any(place.startswith("sharetune/__init__.py:") for place in places)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What of a group its sizes depend on.", ["What"]),
        ("How many of them are left.", ["How many of"]),
        ("Whether all that is needed is there.", ["Whether all that"]),
        ("Remove all units; a place that lacks keeps all.", ["lacks"]),
        ("Return points.\n\nEvery so-manieth in order.", ["so-manieth"]),
        ("Return what was told.", ["told"]),
        ("Return a folder beside `out`.", ["beside"]),
        ("Return a folder.\n\nIt lies beside `out`.", []),
        ("Return whatever `out` holds.", []),
    ],
)
def test_a_word_to_decode_is_refused(text, words):
    assert faults(text) == words
