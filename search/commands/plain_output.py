"""Print what a terminal's encoding cannot show by letters that it can."""

import codecs
import sys
import unicodedata
from typing import Any

PLAIN = {
    "–": "-",
    "—": "-",
    "−": "-",
    "×": "x",
    "…": "...",
    "’": "'",
    "“": '"',
    "”": '"',
    "≥": ">=",
    "≤": "<=",
    "\u2009": " ",
    "\u202f": " ",
    "\u00a0": " ",
}
"""Letters of our output that are not ASCII, and what stands for them."""

HANDLER = "sharetune-plain"
"""Name of the error handler of encodings."""


def in_plain_letters(text: str) -> str:
    """Return `text` in ASCII: known signs by their likes, accents left out, others as ``?``."""
    return "".join(PLAIN.get(letter) or _without_accents(letter) for letter in text)


def _without_accents(letter: str) -> str:
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return plain or "?"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_plain_letters(error.object[error.start : error.end]), error.end


def show_everywhere() -> None:
    """Let standard output and error replace letters that their encoding does not have."""
    codecs.register_error(HANDLER, _replaced)
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=HANDLER)
