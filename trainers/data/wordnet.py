"""Read synonyms from WordNet's database files, as Princeton and Debian ship them (wndb(5))."""

import os
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

from sharetune.spaces.errors import ConfigError

DATABASE_FOLDERS = ("/usr/share/wordnet", "/usr/local/share/wordnet")
"""Folders in which packages install WordNet."""

DATABASE_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
"""The database's files, one a part of speech."""


def database(folder: str | None) -> Path:
    """Return the folder of the database. Raises :class:`ConfigError` if there is none."""
    named = (
        [folder] if folder is not None else [os.environ.get("WNSEARCHDIR", ""), *DATABASE_FOLDERS]
    )
    found = [Path(place) for place in named if place and (Path(place) / DATABASE_FILES[0]).exists()]
    if not found:
        raise ConfigError(
            f"no WordNet database in {', '.join(filter(None, named))}",
            "apt-get install wordnet-base, or name the folder of data.noun in augment.wordnet",
        )
    return found[0]


@lru_cache(maxsize=2)
def synonyms(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return, for each single word, the other words of all its senses, lower case and sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in DATABASE_FILES:
        if (folder / name).exists():
            for line in (folder / name).read_text("utf-8").splitlines():
                words = _words(line)
                for word in words:
                    found[word] |= set(words) - {word}
    return {word: tuple(sorted(others)) for word, others in found.items() if others}


def _words(line: str) -> list[str]:
    """Return the single words of a synset's line; none for an indented line of the licence."""
    if line.startswith("  "):
        return []
    fields = line.split(" ")
    count = int(fields[3], 16)
    words = [word.partition("(")[0].lower() for word in fields[4 : 4 + 2 * count : 2]]
    return [word for word in words if "_" not in word]
