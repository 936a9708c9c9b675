"""Writes messages of programs, English and French, as one table of pairs.

They are the catalogues that two packages ship (``pip install sharetune[examples]``): Django and
JupyterLab's French language pack, both BSD-3-Clause. Nothing is downloaded beside the packages.
"""

import gettext
import random
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
CATALOGUES = {
    "django": "**/locale/fr/LC_MESSAGES/*.mo",
    "jupyterlab_language_pack_fr_FR": "locale/fr_FR/LC_MESSAGES/*.mo",
}
WORD = re.compile("[a-z]{2}")
TEST_SHARE = 0.1
SEED = 0


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        sys.exit(
            f"error: package {name} is not installed\n\nhint: pip install 'sharetune[examples]'"
        )
    return Path(spec.origin).parent


def messages() -> dict[str, str]:
    """French by English, each once; names that are the same in both are left out."""
    pairs = {}
    for package, pattern in CATALOGUES.items():
        for path in sorted(package_folder(package).glob(pattern)):
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
            for key, value in catalogue.items():
                english = key[0] if isinstance(key, tuple) else key
                english, french = (" ".join(text.split()) for text in (english, value))
                english = english.split("\x04")[-1]
                if english != french and french and WORD.search(english):
                    pairs[english] = french
    return pairs


def write(folder: Path) -> None:
    """A tenth of the messages, drawn at random, becomes the test split."""
    rows = [{"en": en, "fr": fr} for en, fr in sorted(messages().items())]
    random.Random(SEED).shuffle(rows)
    cut = round(len(rows) * TEST_SHARE)
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows[cut:]).to_csv(folder / "train.csv", index=False)
    pd.DataFrame(rows[:cut]).to_csv(folder / "test.csv", index=False)
    print(f"wrote {len(rows) - cut} training and {cut} test messages to {folder}")


if __name__ == "__main__":
    write(HERE / "data")
