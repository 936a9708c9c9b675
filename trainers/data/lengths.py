"""Tell how many tokens examples have."""

from heapq import nlargest
from typing import Any

import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset

TOKENS = "input_ids"
"""The column of rows that holds token ids."""

CHECKED = 2**17
"""First rows of a split that are looked at: a whole one of many would be read into memory."""


def has_tokens(rows: Any) -> bool:
    """Return whether each of the prepared `rows` is a row of a table with token ids."""
    return isinstance(rows, Dataset) and TOKENS in rows.column_names


def mean_length(rows: Any) -> float | None:
    """Return the mean number of tokens of a row, or None for rows without tokens."""
    if not has_tokens(rows):
        return None
    return float(pc.mean(pc.list_value_length(rows.data.column(TOKENS))).as_py())


def longest(rows: Any, count: int) -> list[int]:
    """Return the numbers of the `count` rows that have the most tokens, or of the first ones.

    Of very many rows the first `CHECKED` are looked at.
    """
    if not has_tokens(rows):
        return list(range(min(count, len(rows))))
    of = pc.list_value_length(rows.data.column(TOKENS).slice(0, CHECKED)).to_numpy()
    return nlargest(count, range(len(of)), key=lambda i: int(of[i]))
