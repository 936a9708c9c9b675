"""What packages say of themselves, as texts and as data sets that nothing has to be downloaded for.

    python benchmarks/planning/materials.py FOLDER

writes FOLDER/sections (of a description, which of 20 sections its package is in) and
FOLDER/descriptions (text to write), a training and a test split each, from Debian's list of
packages, which `apt-get update` fetches.
"""

import random
import subprocess
import sys
from collections import Counter
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd

EMOJI_NAMES = Path(__file__).parents[2] / "examples" / "emoji-names" / "data" / "train.csv"

SECTIONS = 20
MOST_OF_A_SECTION = 600
TEST_EVERY = 6
LINES = 12
"""Lines of a text to write: about 250 tokens of SmolLM2."""

TEXTS, TEST_TEXTS = 1200, 24


class Package(NamedTuple):
    """What Debian's list says of a package."""

    name: str
    section: str
    line: str


def packages() -> list[Package]:
    """Return the packages that apt knows, in a random order that is always the same."""
    text = subprocess.run(
        ["apt-cache", "dumpavail"], check=True, capture_output=True, text=True, errors="replace"
    ).stdout
    found: dict[str, Package] = {}
    for entry in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in entry.split("\n") if ": " in line)
        if fields.keys() >= {"Package", "Section", "Description"}:
            name = fields["Package"]
            found[name] = Package(name, fields["Section"], fields["Description"])
    every = sorted(found.values())
    random.Random(0).shuffle(every)
    return every


def debian() -> list[str]:
    """Return a line for each package that apt knows, in a random order."""
    return [f"{package.name}: {package.line}\n" for package in packages()]


def pip() -> list[str]:
    """Return the beginning of the description of each installed Python package."""
    found = {d.metadata["Name"].lower(): d.metadata.get_payload() or "" for d in distributions()}
    return [found[name][:6000] + "\n\n" for name in sorted(found) if len(found[name]) > 500]


def emoji_names() -> list[tuple[str, str]]:
    """Return the names of emoji, English and French, that `examples/emoji-names` trains on."""
    frame = pd.read_csv(EMOJI_NAMES)
    pairs = list(zip(frame["en"], frame["fr"], strict=True))
    random.Random(0).shuffle(pairs)
    return pairs


def sections() -> list[dict[str, str]]:
    """Return descriptions of packages of the largest sections, as many of each at most."""
    every = packages()
    counts = Counter(package.section for package in every)
    largest = [name for name, _ in counts.most_common(SECTIONS)]
    rows = [
        {"text": package.line, "label": section}
        for section in largest
        for package in islice((p for p in every if p.section == section), MOST_OF_A_SECTION)
    ]
    random.Random(0).shuffle(rows)
    return rows


def descriptions() -> list[dict[str, str]]:
    """Return texts of several packages' lines each."""
    lines = debian()
    return [
        {"text": "".join(lines[start : start + LINES])}
        for start in range(0, LINES * (TEXTS + TEST_TEXTS), LINES)
    ]


def write(rows: list[dict[str, str]], test: int, folder: Path) -> None:
    """Write the first `test` rows as the test split and the others to train on."""
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows[:test]).to_csv(folder / "test.csv", index=False)
    pd.DataFrame(rows[test:]).to_csv(folder / "train.csv", index=False)
    print(f"wrote {len(rows) - test} training and {test} test rows to {folder}")


if __name__ == "__main__":
    out = Path(sys.argv[1])
    labelled = sections()
    write(labelled, len(labelled) // TEST_EVERY, out / "sections")
    write(descriptions(), TEST_TEXTS, out / "descriptions")
