"""Writes the names of emoji, English and French, as tables of pairs.

They are Unicode's (CLDR), which the package `emoji` ships (``pip install sharetune[examples]``).
"""

import random
import re
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
WORDS = range(2, 13)
SKIN_TONE = re.compile(r"\s*((medium-)?(light|dark|medium) )?skin tone")
TEST_SHARE = 0.1
SEED = 0


def names() -> dict[str, str]:
    """French by English, each once: English names of 2 to 12 words, other than the French ones."""
    try:
        import emoji
    except ImportError:
        sys.exit("error: package emoji is not installed\n\nhint: pip install 'sharetune[examples]'")
    emoji.config.load_language("fr")
    pairs: dict[str, str] = {}
    for entry in emoji.EMOJI_DATA.values():
        english, french = (plain(str(entry.get(language, ""))) for language in ("en", "fr"))
        if french and english != french and len(english.split()) in WORDS:
            pairs.setdefault(english, french)
    return pairs


def plain(name: str) -> str:
    """``:woman_running:`` as words."""
    return " ".join(name.strip(":").replace("_", " ").split())


def write(folder: Path) -> None:
    """A tenth of the names without their skin tones, drawn at random, becomes the test, in all
    tones: what differs in tone alone is on one side."""
    pairs = names()
    motifs = sorted({SKIN_TONE.sub("", english).strip() for english in pairs})
    random.Random(SEED).shuffle(motifs)
    held_out = set(motifs[: round(len(motifs) * TEST_SHARE)])
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for english, french in sorted(pairs.items()):
        split = "test" if SKIN_TONE.sub("", english).strip() in held_out else "train"
        rows[split].append({"en": english, "fr": french})
    folder.mkdir(exist_ok=True)
    for split, found in rows.items():
        pd.DataFrame(found).to_csv(folder / f"{split}.csv", index=False)
    train, test = rows["train"], rows["test"]
    print(f"wrote {len(train)} training and {len(test)} test names to {folder}")
    print(f"BLEU of copying the English: {copying(test):.1f}")
    print(f"BLEU of the French of the most similar training name: {nearest(train, test):.1f}")


def copying(test: list[dict[str, str]]) -> float:
    """BLEU of the English itself."""
    return bleu([row["en"] for row in test], test)


def nearest(train: list[dict[str, str]], test: list[dict[str, str]]) -> float:
    """BLEU of the French of the training name that has the most words in common, as a fraction of
    the words of both."""
    known = [(set(row["en"].split()), row["fr"]) for row in train]

    def most_similar(english: str) -> str:
        asked = set(english.split())
        return max(known, key=lambda row: len(asked & row[0]) / len(asked | row[0]))[1]

    return bleu([most_similar(row["en"]) for row in test], test)


def bleu(told: list[str], test: list[dict[str, str]]) -> float:
    """sacrebleu's corpus BLEU of `told` against the French."""
    import sacrebleu

    return float(sacrebleu.corpus_bleu(told, [[row["fr"] for row in test]]).score)


if __name__ == "__main__":
    write(HERE / "data")
