"""Tell how many tokens examples have."""

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset

TOKENS = "input_ids"
"""The column of rows that holds token ids."""


def has_tokens(rows: Any) -> bool:
    """Return whether each of the prepared `rows` is a row of a table with token ids."""
    return isinstance(rows, Dataset) and TOKENS in rows.column_names


def lengths(rows: Dataset) -> Sequence[int]:
    """Return the number of tokens of each row."""
    found: list[int] = pc.list_value_length(rows.data.column(TOKENS)).to_pylist()
    return found


def mean_length(rows: Any) -> float | None:
    """Return the mean number of tokens of a row, or None for rows without tokens."""
    if not has_tokens(rows):
        return None
    return float(pc.mean(pc.list_value_length(rows.data.column(TOKENS))).as_py())


def longest(rows: Any, count: int) -> list[int]:
    """Return the numbers of the `count` rows that have the most tokens, or of the first ones."""
    numbers = list(range(len(rows)))
    if has_tokens(rows):
        of = lengths(rows)
        numbers.sort(key=lambda i: -of[i])
    return numbers[:count]
