"""Writes tables of the prompts of a telephone exchange, recorded in English, Spanish and French.

The recordings are real speech that three Debian packages ship, Asterisk's core sounds; nothing else
is downloaded. Without the packages this ends with exit status 77, by which `make examples` skips
the example.
"""

import random
import sys
from pathlib import Path

import pandas as pd
import soundfile

HERE = Path(__file__).parent
SOUNDS = Path("/usr/share/asterisk/sounds")
LANGUAGES = {"en_US_f_Allison": "English", "es_MX_f_Allison": "Spanish", "fr_CA_f_June": "French"}
PACKAGES = [f"asterisk-core-sounds-{language}-wav" for language in ("en", "es", "fr")]
NOT_INSTALLED = 77
LEAST_SECONDS = 0.5
TEST_SHARE = 0.2
SEED = 0


def prompts() -> pd.DataFrame:
    """Path, name and language of every prompt that has at least half a second of speech."""
    rows = []
    for voice, language in LANGUAGES.items():
        if not (SOUNDS / voice).is_dir():
            print(
                f"skipped: no recordings in {SOUNDS / voice}\n\n"
                f"hint: apt-get install --no-install-recommends {' '.join(PACKAGES)}",
                file=sys.stderr,
            )
            sys.exit(NOT_INSTALLED)
        for path in sorted((SOUNDS / voice).rglob("*.wav")):
            name = path.relative_to(SOUNDS / voice).as_posix()
            if not name.startswith("silence/") and soundfile.info(path).duration >= LEAST_SECONDS:
                rows.append({"audio": str(path), "label": language, "name": name})
    return pd.DataFrame(rows)


def write(folder: Path) -> None:
    """A fifth of the prompts is the test, in every language they were recorded in."""
    frame = prompts()
    names = sorted(frame["name"].unique())
    random.Random(SEED).shuffle(names)
    held_out = frame["name"].isin(names[: round(len(names) * TEST_SHARE)])
    folder.mkdir(exist_ok=True)
    columns = ["audio", "label"]
    frame.loc[~held_out, columns].to_csv(folder / "train.csv", index=False)
    frame.loc[held_out, columns].to_csv(folder / "test.csv", index=False)
    print(f"wrote {(~held_out).sum()} training and {held_out.sum()} test recordings to {folder}")


if __name__ == "__main__":
    write(HERE / "data")
