"""Sums of numbers, made by a script, for a workload that needs depth.

    python benchmarks/matrix/materials.py

writes workloads/materials/addition. Of two numbers of 12 digits, each word is a column, such as 47
for a 4 above a 7, and its tag is that column's digit of the sum. Half of the columns add up to 9,
so that a carry passes through long runs of them: a column's digit hangs on columns far to its
right, which a model must work through one after another.
"""

import random
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent / "workloads" / "materials" / "addition"
COLUMNS = 12
PASSING = 0.5
"""Probability of a column that passes a carry on."""

TRAIN, TEST = 8000, 1000
SEED = 0


def column(draw: random.Random) -> tuple[int, int]:
    """Return the two digits of a column."""
    above = draw.randrange(10)
    return above, 9 - above if draw.random() < PASSING else draw.randrange(10)


def addition(draw: random.Random) -> dict[str, str]:
    """Return the columns of two numbers, highest first, and the digits of their sum without the
    last carry."""
    columns = [column(draw) for _ in range(COLUMNS)]
    carry, digits = 0, []
    for above, below in reversed(columns):
        carry, digit = divmod(above + below + carry, 10)
        digits.append(digit)
    words = " ".join(f"{above}{below}" for above, below in columns)
    return {"tokens": words, "tags": " ".join(map(str, reversed(digits)))}


if __name__ == "__main__":
    draw = random.Random(SEED)
    rows = list(
        {row["tokens"]: row for row in (addition(draw) for _ in range(TRAIN + TEST))}.values()
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    for split, found in (("test", rows[:TEST]), ("train", rows[TEST:])):
        pd.DataFrame(found).to_csv(FOLDER / f"{split}.csv", index=False)
        print(f"wrote {len(found)} sums to {FOLDER / split}.csv")
