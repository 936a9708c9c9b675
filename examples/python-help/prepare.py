"""Writes Python's own help texts as tables of paragraphs. Nothing is downloaded.

They ship with every Python as `pydoc_data.topics`, under the PSF licence.
"""

from pathlib import Path
from pydoc_data.topics import topics

import pandas as pd

HERE = Path(__file__).parent
EVERY = 10


def write(folder: Path) -> None:
    """Every tenth topic becomes the test split; a paragraph that several topics have stays in
    training only."""
    train: dict[str, None] = {}
    test: dict[str, None] = {}
    for number, name in enumerate(sorted(topics)):
        split = test if number % EVERY == 0 else train
        for paragraph in topics[name].split("\n\n"):
            text = " ".join(paragraph.split())
            if text:
                split[text] = None
    held_out = [text for text in test if text not in train]
    folder.mkdir(exist_ok=True)
    pd.DataFrame({"text": list(train)}).to_csv(folder / "train.csv", index=False)
    pd.DataFrame({"text": held_out}).to_csv(folder / "test.csv", index=False)
    print(f"wrote {len(train)} training and {len(held_out)} test paragraphs to {folder}")


if __name__ == "__main__":
    write(HERE / "data")
