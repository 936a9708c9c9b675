"""Read a user's table (CSV, JSON Lines, Parquet, a `datasets` name), with errors that help."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharetune.spaces.errors import DataError

READERS: dict[str, Callable[..., pd.DataFrame]] = {
    ".csv": lambda path: pd.read_csv(path, encoding="utf-8", keep_default_na=False),
    ".tsv": lambda path: pd.read_csv(path, encoding="utf-8", sep="\t", keep_default_na=False),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False, encoding="utf-8"),
    ".json": lambda path: pd.read_json(path, lines=True, dtype=False, encoding="utf-8"),
    ".parquet": pd.read_parquet,
}
"""The function that reads a table, by suffix. An empty text in CSV stays a text, not NaN."""


def read_table(source: str, split: str) -> pd.DataFrame:
    """Return the rows of a file, or of one `split` of a data set of the hub.

    Raises :class:`DataError` for a missing, empty, undecodable or malformed file.
    """
    path = Path(source)
    is_file = path.suffix.lower() in READERS
    frame = _read_file(path) if is_file else _read_hub(source, split)
    if frame.empty:
        raise DataError(f"{source} has no rows", "give a file with a header and at least one row")
    return frame


def _read_file(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise DataError(f"no such data file: {path}", "paths are relative to the study file")
    try:
        return READERS[path.suffix.lower()](path)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty", "give a file with a header and rows") from None
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is not UTF-8: line {_first_undecodable_line(path)} cannot be decoded",
            f"convert it, for example: iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}",
        ) from None
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as {path.suffix[1:].upper()}: {str(error).splitlines()[0]}",
            f"known kinds of file: {', '.join(READERS)}",
        ) from None


def _first_undecodable_line(path: Path) -> int:
    content = path.read_bytes()
    decodable = content.decode("utf-8", errors="surrogateescape")
    escaped = next(i for i, letter in enumerate(decodable) if "\udc80" <= letter <= "\udcff")
    return decodable.count("\n", 0, escaped) + 1


def _read_hub(name: str, split: str) -> pd.DataFrame:
    """Return the rows of a data set of the hub, or of a folder that `datasets` can load.

    A configuration follows `name` after a colon. Class labels become their names.
    """
    import datasets

    path, _, configuration = name.partition(":")
    try:
        found = datasets.load_dataset(path, configuration or None, split=split)
        frame = found.to_pandas()
    except Exception as error:  # `datasets` raises a dozen classes for a missing name
        raise DataError(
            f"no data set {name!r} with split {split!r}: {str(error).splitlines()[0]}",
            f"name a file ({', '.join(READERS)}), or a folder or data set of the hub that has the "
            "split; a configuration follows a colon: nyu-mll/glue:sst2",
        ) from error
    assert isinstance(frame, pd.DataFrame)
    for column, feature in found.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.ClassLabel):
            frame[column] = frame[column].map(partial(_named, names=inner.names))
    return frame


def _named(value: Any, names: list[str]) -> Any:
    """Return the names of one class number or of a list of them; -1, for no label, stays."""
    if np.ndim(value):
        return [_named(number, names) for number in value]
    return names[value] if value >= 0 else value


def labelled_files(folder: Path, what: str, suffixes: tuple[str, ...]) -> pd.DataFrame:
    """Return the paths, in the column `what`, and labels of the files ``folder/<label>/<file>``.

    `what` is a word such as "picture". Raises :class:`DataError` for a folder without files of
    these `suffixes`.
    """
    rows = [
        {what: path.relative_to(folder).as_posix(), "label": path.parent.name}
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in suffixes
    ]
    if not rows:
        others = sorted(
            {path.suffix or "no suffix" for path in folder.rglob("*") if path.is_file()}
        )
        raise DataError(
            f"{folder} holds no folders of {what}s; it has {', '.join(others) or 'no'} files",
            f"needed: {folder.name}/<label>/<{what}>, of {', '.join(suffixes)}",
        )
    return pd.DataFrame(rows)


def resolve_paths(values: Iterable[Any], source: str) -> list[Any]:
    """Return the files' bytes, or their paths completed by the folder of the table.

    Values are paths or bytes, or dictionaries of both, as in the tables of `datasets`.
    """
    folder = Path(source).parent if Path(source).suffix.lower() in READERS else Path(source)
    found = [
        value.get("bytes") or value.get("path") if isinstance(value, dict) else value
        for value in values
    ]
    return [str(folder / value) if isinstance(value, str) else value for value in found]


def column(frame: pd.DataFrame, given: str | None, usual: tuple[str, ...], what: str) -> str:
    """Return the column's name: `given`, or the first of the `usual` ones that the table has.

    Raises :class:`DataError` if the table has none of them.
    """
    names = [given] if given else usual
    for name in names:
        if name in frame.columns:
            return str(name)
    asked = repr(given) if given else f"among {', '.join(usual)}"
    raise DataError(
        f"no {what} column: looked for {asked}, and the table has "
        f"{', '.join(map(repr, frame.columns))}",
        f"set task.{what} to the column's name",
    )


def filled(values: pd.Series, source: str, what: str) -> pd.Series:
    """Return `values` as texts. Raises :class:`DataError` if any is missing or blank."""
    other = [type(v).__name__ for v in values if isinstance(v, bytes | dict | list)]
    if other:
        raise DataError(
            f"{source} has {other[0]} in the column {values.name!r} where the {what} should be",
            f"the task needs a column of {what}",
        )
    empty = values.isna() | values.astype(str).str.strip().eq("")
    if empty.any():
        raise DataError(
            f"{source} has {int(empty.sum())} rows without {what}, the first at row "
            f"{int(empty.to_numpy().argmax()) + 1}",
            "remove them or fill them in",
        )
    return values.astype(str)


def numbers(values: pd.Series, source: str, what: str) -> pd.Series:
    """Return `values` as floats. Raises :class:`DataError` if any is not a finite number."""
    found = pd.to_numeric(values, errors="coerce").astype(float)
    wrong = ~np.isfinite(found)
    if wrong.any():
        raise DataError(
            f"{source} has {int(wrong.sum())} rows whose {what} is not a number, the first "
            f"{values[wrong].iloc[0]!r}",
            f"the task needs numbers in the column {values.name!r}",
        )
    return found
