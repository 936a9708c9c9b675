"""Make foreign text safe to print: without what moves a terminal's cursor, and not too long."""

import unicodedata
from typing import Any

BIDI = {*map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))}
"""Characters that change the direction of the text after them."""

UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories of control characters, halves of pairs and separators of lines."""

MOST_SHOWN = 160
"""Characters of a value that an error shows."""


def printable(text: str) -> str:
    """Return `text` with control characters as escapes; line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character in "\n\t":
        return character
    if character in BIDI or unicodedata.category(character) in UNPRINTABLE:
        return character.encode("unicode_escape", "replace").decode("ascii")
    return character


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """Return `text`, or its begin and its length in characters if it is longer than `most`."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def shown(value: Any) -> str:
    """Write a value as an error shows it: short, on one line, whatever it is."""
    try:
        return shortened(printable(repr(value)).replace("\n", " "))
    except Exception as error:  # a number of too many digits, a value inside itself
        return f"a {type(value).__name__} that cannot be written ({type(error).__name__})"
