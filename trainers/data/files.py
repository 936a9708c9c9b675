"""Read the rows of a data file, each cell as it is written."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharetune.spaces.errors import DataError
from sharetune.spaces.paths import require_data
from sharetune.trainers.data.cells import is_unwritable

DECOMPRESSORS: dict[str, Callable[[Path], bytes]] = {
    ".gz": lambda path: gzip.decompress(path.read_bytes()),
    ".bz2": lambda path: bz2.decompress(path.read_bytes()),
    ".xz": lambda path: lzma.decompress(path.read_bytes()),
    ".zst": lambda path: pa.input_stream(str(path), compression="zstd").read(),
}
"""The function that unpacks a file, by suffix."""

LONGEST_CELL = 2**31 - 1
"""Letters of a CSV's cell: the most that the csv module takes on every system."""

INDEX = re.compile(r"__index_level_\d+__")
"""A column that pandas adds to a Parquet file for row numbers of its own."""


def kind_of(path: Path) -> str | None:
    """Return the suffix by which `path` is read, without a compression's; None if none is known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in DECOMPRESSORS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else None


def read_file(path: Path, content: Path | None = None) -> pd.DataFrame:
    """Return the rows of a file, in columns of objects; `content` is where a copy of it lies.

    Texts of CSV, TSV and text files stay as they are written; JSON and Parquet have types of their
    own. Raises :class:`DataError` for a missing, empty, undecodable or malformed file.
    """
    require_data(str(content or path))
    kind = kind_of(path) or ""
    try:
        frame = READERS[kind](content or path)
    except UnicodeDecodeError as error:
        raise _undecodable(path, error) from None
    except (ValueError, OSError, EOFError, OverflowError, RecursionError) as error:
        raise _malformed(path, kind, error) from None
    except (zlib.error, lzma.LZMAError) as error:
        raise _malformed(path, kind, error) from None
    refuse_unwritable(frame, path)
    return frame


def frame_of(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """Make a table whose cells stay the objects that they are."""
    return pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()})


def frame_of_arrow(table: pa.Table) -> pd.DataFrame:
    """Make a table of Arrow's values: whole numbers stay whole next to nulls, lists are lists."""
    _refuse_duplicates(table.column_names, "columns")
    return frame_of(
        {name: table[name].to_pylist() for name in table.column_names if not INDEX.fullmatch(name)}
    )


def _malformed(path: Path, kind: str, error: Exception) -> DataError:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    if text == EMPTY:
        return DataError(f"{path} is empty", "give a file with a header and rows")
    return DataError(
        f"{path} cannot be read as {kind[1:].upper()}: {text}",
        f"{ADVICE.get(kind, 'write it anew')}; known kinds of file: {', '.join(READERS)}",
    )


def _undecodable(path: Path, error: UnicodeDecodeError) -> DataError:
    content = error.object
    line = content.count(b"\n", 0, error.start) + 1
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return DataError(
        f"{path} is not UTF-8: line {line} cannot be decoded",
        f"convert it, for example: iconv -f {'utf-16' if wide else 'latin1'} -t utf-8 "
        f"{path.name} > utf8-{path.name}",
    )


def refuse_unwritable(frame: pd.DataFrame, path: Path | str) -> None:
    """Raise :class:`DataError` for a cell with a NUL byte, or with half a letter."""
    for name in frame.columns:
        for row, cell in enumerate(frame[name], 1):
            if is_unwritable(cell):
                raise DataError(
                    f"{path} has a NUL byte or half a letter in row {row}, column {name!r}",
                    "remove it: no tokenizer reads it",
                )


def _bytes(path: Path) -> bytes:
    unpack = DECOMPRESSORS.get(path.suffix.lower(), Path.read_bytes)
    return unpack(path)


def _text(path: Path) -> str:
    """Return a file's text without a byte order mark."""
    text = _bytes(path).decode("utf-8-sig")
    if not text:
        raise ValueError(EMPTY)
    return text


def _delimited(path: Path, delimiter: str) -> pd.DataFrame:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    rows = _records(reader, delimiter)
    _, header = next(rows, (0, []))
    if not header:
        raise ValueError(EMPTY)
    _refuse_duplicates([name for name in header if name], "columns")
    table = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(
                f"line {line} has {len(cells)} fields and the header {len(header)} "
                f"({', '.join(map(repr, header[:8]))})"
            )
        table.append(cells)
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
    return frame_of({name: [row[i] for row in table] for i, name in enumerate(names)})


def _records(reader: Any, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not a blank line, after the number of its first line."""
    line = 1
    width = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}") from None
        width = width or len(cells)
        blank = not cells or (width > 1 and len(cells) == 1 and not cells[0].strip())
        if not blank:
            yield line, cells
        line = reader.line_num + 1


def _json(path: Path) -> pd.DataFrame:
    text = _text(path)
    if not text.strip():
        raise ValueError(EMPTY)
    rows = _array(text) if text.lstrip()[0] == "[" else _lines(text)
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place} is not an object: {json.dumps(row)[:40]}")
    names = dict.fromkeys(name for _, row in rows for name in row)
    return frame_of({name: [row.get(name) for _, row in rows] for name in names})


def _array(text: str) -> list[tuple[str, Any]]:
    return [(f"row {i}", row) for i, row in enumerate(_parsed(text), 1)]


def _lines(text: str) -> list[tuple[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append((f"line {number}", _parsed(line)))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from None
    return rows


def _parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_duplicates([name for name, _ in pairs], "keys")
    return dict(pairs)


def _refuse_duplicates(names: Sequence[str], what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"two {what} are named {twice[0]!r}")


def _parquet(path: Path) -> pd.DataFrame:
    packed = path.suffix.lower() in DECOMPRESSORS
    return frame_of_arrow(pq.ParquetFile(io.BytesIO(_bytes(path)) if packed else path).read())


def _texts(path: Path) -> pd.DataFrame:
    lines = re.split(r"\r\n|\n|\r", _text(path))
    return frame_of({"text": [line for line in lines if line.strip()]})


EMPTY = "no content"
"""Message of the error for a file without content."""

ADVICE = {
    ".csv": "cells with commas, quotes or line ends stand in double quotes",
    ".tsv": "cells with tabs, quotes or line ends stand in double quotes",
    ".json": "one object a line, or an array of objects",
    ".jsonl": "one object a line",
    ".ndjson": "one object a line",
}
"""The rule of a kind of file, by suffix."""

READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: _delimited(path, ","),
    ".tsv": lambda path: _delimited(path, "\t"),
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".parquet": _parquet,
    ".txt": _texts,
}
"""The function that reads a table, by suffix."""
