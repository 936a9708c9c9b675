"""Read single cells of a table: texts as they are written, numbers, times, and lists inside one."""

import ast
import json
import math
import re
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

MISSING_SPELLINGS = frozenset(
    ("", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "None")
) | frozenset(("NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"))
"""Texts that count as a missing label, tag, user or item: those that pandas reads as missing."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""A number as a cell writes it, with a decimal point and without separators of thousands."""

QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
"""A text as Python writes it."""

ELEMENT = re.compile(rf"\s*(?:np\.\w+\(\s*)?({QUOTED}|[\w.+-]+)\s*\)?\s*(,?)", re.DOTALL)
"""An element of a list as pandas and numpy write it, and the comma after it, which numpy omits."""

WORDS = {"None": None, "nan": None, "NaN": None, "null": None, "<NA>": None}
"""Bare words for a missing element of a list."""

UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, which cuts texts off, and halves of letters, which UTF-8 cannot write."""


def is_null(cell: object) -> bool:
    """Return whether a cell holds no value at all: null or NaN."""
    return cell is None or (isinstance(cell, float | Decimal) and math.isnan(cell))


def as_text(cell: object) -> str | None:
    """Return a single value as it is written; None for a list, a dictionary or bytes."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str | int | float | Decimal | datetime | date | time):
        return str(cell)
    return None


def as_number(cell: object) -> float | None:
    """Return a cell's finite number; None for any other cell."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float | Decimal):
        return None
    if isinstance(cell, str) and not NUMBER.fullmatch(cell.strip()):
        return None
    try:
        number = float(cell)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_time(cell: Any) -> datetime | int | float | None:
    """Return a cell's number, exact where it is whole, or its date; None for any other cell."""
    if isinstance(cell, datetime):
        return cell
    if isinstance(cell, date):
        return datetime(cell.year, cell.month, cell.day)
    number = as_number(cell)
    if number is not None:
        return int(cell) if re.fullmatch(r"\s*[+-]?\d+\s*", str(cell), re.ASCII) else number
    try:
        return datetime.fromisoformat(str(cell).strip())
    except ValueError:
        return None


def as_list(cell: object) -> list[Any] | None:
    """Return the elements of a list, or of a text that holds one; None where it cannot be read.

    A text is a list as JSON, Python, pandas or numpy write it, or else words between blanks: a
    sentence may begin with a bracket.
    """
    if isinstance(cell, list | tuple):
        return list(cell)
    text = as_text(cell)
    if text is None or is_null(cell):
        return None
    if not text.lstrip().startswith(("[", "('", '("')):
        return text.split()
    found = written_list(text.strip())
    return found if found is not None else _sentence(text)


def written_list(text: str) -> list[Any] | None:
    """Return the elements of a list that JSON, Python, pandas or numpy wrote; None for none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _elements(text)
    return found if isinstance(found, list) else None


def written_value(text: str) -> Any:
    """Return a dictionary or a list that JSON or pandas wrote; the text itself if it is none."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return _literal(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def is_unwritable(cell: object) -> bool:
    """Return whether a text in a cell holds NUL or half a letter."""
    if isinstance(cell, str):
        return UNWRITABLE.search(cell) is not None
    if isinstance(cell, dict):
        return any(is_unwritable(part) for pair in cell.items() for part in pair)
    return isinstance(cell, list | tuple) and any(map(is_unwritable, cell))


def _literal(node: ast.expr) -> Any:
    """Return the value that Python wrote, of ``array([...])`` its list; nothing is executed.

    Raises ``ValueError`` for another expression.
    """
    match node:
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {_literal(key): _literal(value) for key, value in pairs if key is not None}
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_literal(element) for element in elements]
        case ast.Call(func=ast.Name(id="array") | ast.Attribute(), args=[inside, *_]):
            return _literal(inside)
        case ast.Name(id=name) if name in WORDS:
            return None
        case _:
            return ast.literal_eval(node)


def _sentence(text: str) -> list[str] | None:
    """Return the words of a text that begins with a bracket; None for a list that is broken."""
    words = text.split()
    closed = words[0] == "[" or "]" in words[0] or not text.rstrip().endswith(("]", ")"))
    return words if closed else None


def _elements(text: str) -> list[Any] | None:
    if (text[0], text[-1]) not in (("[", "]"), ("(", ")")):
        return None
    try:
        return list(_parsed(text[1:-1]))
    except (ValueError, SyntaxError):
        return None


def _parsed(inside: str) -> Iterator[Any]:
    """Yield the elements of a list's text. Raises ``ValueError`` for a text that is no list."""
    place, commas = 0, set()
    while place < len(inside.rstrip()):
        found = ELEMENT.match(inside, place)
        if found is None:
            raise ValueError(inside)
        place = found.end()
        if place < len(inside.rstrip()):
            commas.add(found[2])
        yield _element(found[1])
    if len(commas) > 1:
        raise ValueError(inside)


def _element(written: str) -> Any:
    if written[0] in "'\"":
        return ast.literal_eval(written)
    if written in WORDS:
        return WORDS[written]
    if NUMBER.fullmatch(written):
        return written
    if written in ("True", "False"):
        return written == "True"
    raise ValueError(written)
