"""Say whether pairs of runs tried the same plans and measured the same values.

    python benchmarks/same_fronts.py BEFORE AFTER [BEFORE AFTER ...]

For comparing two versions of the code on the same studies and seeds, run with `executor: local`,
where nothing depends on which worker is faster. Ends with 1 if anything differs.
"""

import sys
from pathlib import Path

from sharetune import load

COMPARED = ("values", "plan", "state", "anchor", "reason")


def differences(before: Path, after: Path) -> list[str]:
    """Describe each trial that differs, and trials that only one of the runs has."""
    old, new = load(before), load(after)
    found = [f"{len(old)} trials, {len(new)} now"] if len(old) != len(new) else []
    for column in COMPARED:
        pairs = zip(old[column].tolist(), new[column].tolist(), strict=False)
        found += [
            f"trial {number}: {column} {one!r}, {other!r} now"
            for number, (one, other) in enumerate(pairs)
            if one != other and not (one != one and other != other)
        ]
    return found


def main(runs: list[Path]) -> int:
    """Print one line for each pair, and one for each difference."""
    differ = 0
    for before, after in zip(runs[::2], runs[1::2], strict=True):
        found = differences(before, after)
        print(f"{after}: {len(found)} differences in {len(load(after))} trials", *found, sep="\n  ")
        differ += len(found)
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main([Path(word) for word in sys.argv[1:]]))
