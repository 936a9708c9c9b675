"""Read a table as a stream, a part at a time, so that its size does not matter.

`datasets` reads files of one's own, folders and the hub's data sets row by row; parts of a table
go into a Parquet file and come out of it again, one in memory at a time.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharetune.spaces.errors import DataError
from sharetune.spaces.paths import PATTERN, require_data
from sharetune.trainers.data.files import (
    LONGEST_CELL,
    READERS,
    frame_of,
    kind_of,
    refuse_unwritable,
)

PART_ROWS = 1000
"""Rows of a part at most."""

PART_LETTERS = 2**22
"""Letters of a part from which on no row is added: what a part takes in memory is a few times
that."""

BUILDERS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
"""The builder of `datasets` that reads a kind of file with types of its own."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def streamed(source: str, split: str, most: int | None = None) -> Iterator[pd.DataFrame]:
    """Yield the rows of a file, of files by a pattern, or of a data set's `split`, in parts.

    Cells are objects as they are written; a CSV's are texts. No more than `most` rows are read.
    Raises :class:`DataError` for what cannot be read, when it is met.
    """
    try:
        rows = islice(_rows(source, split), most)
        for first in rows:
            yield _part(chain([first], rows))
    except DataError:
        raise
    except Exception as error:  # `datasets`, pandas and pyarrow raise dozens of classes
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{source} cannot be read as a stream: {text}",
            f"name files ({', '.join(READERS)}), or a folder or data set of the hub that has the "
            f"split {split!r}; without stream: true, errors name the line",
        ) from error


def checked(
    parts: Iterator[pd.DataFrame], source: str, check: Callable[[pd.DataFrame], pd.DataFrame]
) -> Iterator[pd.DataFrame]:
    """Pass each part of `source` through `check`, whose errors count rows from the part's first.

    Raises :class:`DataError` as well for texts that no tokenizer reads.
    """
    before = 0
    for part in parts:
        try:
            refuse_unwritable(part, source)
            found = check(part)
        except DataError as error:
            if before:
                raise DataError(
                    f"{error.message} (rows counted after the first {before:,})", error.hint
                ) from None
            raise
        yield found
        before += len(part)


@dataclass(frozen=True)
class HeldOut:
    """A rule that holds every `every`-th row out, until `most` are."""

    every: int
    most: int

    def mask(self, first: int, count: int) -> np.ndarray:
        """Say for `count` rows from number `first` (0-based) which are held out: (count)."""
        numbers = np.arange(first, first + count)
        return ((numbers + 1) % self.every == 0) & (numbers < self.every * self.most)

    def taken(self, parts: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield the rows that are held out; reading ends with the last of them."""
        before = 0
        for part in parts:
            yield part[self.mask(before, len(part))].reset_index(drop=True)
            before += len(part)
            if before >= self.every * self.most:
                return


def remaining(parts: Iterator[pd.DataFrame], rules: Sequence[HeldOut]) -> Iterator[pd.DataFrame]:
    """Yield the rows that no rule holds out, each of those that the rules before it leave."""
    before = [0] * len(rules)
    for part in parts:
        for place, rule in enumerate(rules):
            count = len(part)
            part = part[~rule.mask(before[place], count)]
            before[place] += count
        yield part.reset_index(drop=True)


def write_parts(parts: Iterator[pd.DataFrame], file: Path) -> int:
    """Write tables of texts one after another into one Parquet file; return how many rows."""
    count, writer = 0, None
    try:
        for part in parts:
            schema = pa.schema([(str(name), pa.large_string()) for name in part.columns])
            writer = writer or pq.ParquetWriter(file, schema)
            writer.write_table(pa.Table.from_pandas(part, schema, preserve_index=False))
            count += len(part)
    finally:
        if writer is not None:
            writer.close()
    return count


def read_parts(file: Path) -> Iterator[pd.DataFrame]:
    """Yield the table in a Parquet file in parts."""
    rows = rows_of(file)
    for first in rows:
        yield _part(chain([first], rows))


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, of which a part is in memory at a time."""
    with pq.ParquetFile(file, pre_buffer=False) as table:  # buffers are kept until the file's end
        for batch in table.iter_batches(PART_ROWS):
            yield from batch.to_pylist()


def _part(rows: Iterator[dict[str, Any]]) -> pd.DataFrame:
    """Take one part's rows."""
    found: list[dict[str, Any]] = []
    letters = 0
    for row in rows:
        found.append(row)
        letters += sum(len(cell) for cell in row.values() if isinstance(cell, str))
        if len(found) == PART_ROWS or letters >= PART_LETTERS:
            break
    names = dict.fromkeys(name for row in found for name in row)
    return frame_of({name: [row.get(name) for row in found] for name in names})


def _rows(source: str, split: str) -> Iterator[dict[str, Any]]:
    import datasets

    require_data(source)
    path = Path(source)
    named = PATTERN & set(source) and not path.exists()
    files = sorted(glob(source)) if named else [source]
    kinds = {kind_of(Path(file)) for file in files}
    if named or (kind_of(path) is not None and not path.is_dir()):
        if len(kinds) != 1 or None in kinds or not all(Path(file).is_file() for file in files):
            raise DataError(
                f"no data files of one kind match {source}",
                f"known kinds of file: {', '.join(READERS)}",
            )
        yield from _of_files(files, str(kinds.pop()))
        return
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = datasets.load_from_disk(source)
        yield from (saved if isinstance(saved, datasets.Dataset) else saved[split])
        return
    name, _, configuration = source.partition(":")
    yield from datasets.load_dataset(name, configuration or None, split=split, streaming=True)


def _of_files(files: list[str], kind: str) -> Iterator[dict[str, Any]]:
    import datasets

    if kind == ".txt":
        found = datasets.load_dataset("text", data_files=files, split="train", streaming=True)
        yield from (row for row in found if row["text"].strip())
        return
    options: dict[str, Any] = {}
    if kind in DELIMITERS:
        names = _header(files[0], DELIMITERS[kind])
        texts = datasets.Features({name: datasets.Value("large_string") for name in names})
        options = {"sep": DELIMITERS[kind], "features": texts, "keep_default_na": False}
        options |= {"na_filter": False}
    builder = BUILDERS.get(kind, "csv")
    yield from datasets.load_dataset(
        builder, data_files=files, split="train", streaming=True, **options
    )


def _header(file: str, delimiter: str) -> list[str]:
    import fsspec

    csv.field_size_limit(LONGEST_CELL)
    with fsspec.open(file, "rt", encoding="utf-8-sig", compression="infer", newline="") as opened:
        names = next(csv.reader(opened, delimiter=delimiter), [])
    if not names:
        raise DataError(f"{file} is empty", "give a file with a header and rows")
    return names
