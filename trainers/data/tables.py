"""Read a user's table (a file, several, or a `datasets` name), with errors that help."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from glob import glob
from pathlib import Path
from typing import Any

import pandas as pd

from sharetune.spaces.errors import DataError
from sharetune.spaces.mistakes import missing_column
from sharetune.spaces.paths import PATTERN, require_data
from sharetune.trainers.data.cells import (
    MISSING_SPELLINGS,
    as_number,
    as_text,
    as_time,
    is_null,
)
from sharetune.trainers.data.files import (
    DECOMPRESSORS,
    READERS,
    frame_of_arrow,
    kind_of,
    read_file,
)

NAMED_ROWS = 5
"""Rows that an error lists; it counts the others."""


def read_table(source: str, split: str) -> pd.DataFrame:
    """Return the rows of a file, of files by a pattern, or of one `split` of a data set of the hub.

    Cells are objects as they are written. Raises :class:`DataError` for a missing, empty,
    undecodable or malformed file.
    """
    require_data(source)
    path = Path(source)
    if PATTERN & set(source) and not path.exists():
        frame = _read_files(source)
    elif kind_of(path) is not None and not path.is_dir():
        frame = read_file(path)
    elif path.is_file():
        raise DataError(
            f"{path} is no known kind of file: {path.suffix or 'it has no suffix'}",
            f"known kinds of file: {', '.join(READERS)}, also with {', '.join(DECOMPRESSORS)}",
        )
    else:
        frame = _read_hub(source, split)
    if frame.empty:
        raise DataError(f"{source} has no rows", "give a file with a header and at least one row")
    return frame


def _read_files(pattern: str) -> pd.DataFrame:
    paths = [Path(name) for name in sorted(glob(pattern)) if kind_of(Path(name)) is not None]
    if not paths:
        raise DataError(
            f"no data files of a known kind match {pattern}", f"known kinds: {', '.join(READERS)}"
        )
    return _together(paths, paths)


def _together(paths: Sequence[Path], contents: Sequence[Path]) -> pd.DataFrame:
    """Return the rows of several files, one after another; all have the same columns."""
    frames = [read_file(path, content) for path, content in zip(paths, contents, strict=True)]
    columns = list(frames[0].columns)
    for path, frame in zip(paths, frames, strict=True):
        if set(frame.columns) != set(columns):
            raise DataError(
                f"{path} has the columns {', '.join(map(repr, frame.columns))}, and {paths[0]} "
                f"{', '.join(map(repr, columns))}",
                "several files of one split need the same columns",
            )
    return pd.concat([frame[columns] for frame in frames], ignore_index=True)


def _read_hub(name: str, split: str) -> pd.DataFrame:
    """Return the rows of a data set of the hub, or of a folder that `datasets` can load or saved.

    A configuration follows `name` after a colon. Class labels become their names.
    """
    path, _, configuration = name.partition(":")
    try:
        found = _data_set(path, configuration or None, split)
        if isinstance(found, pd.DataFrame):
            return found
        frame = frame_of_arrow(found.with_format("arrow")[:])
    except DataError:
        raise
    except Exception as error:  # `datasets` raises a dozen classes for a missing name
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"no data set {name!r} with split {split!r}: {text}",
            f"name a file ({', '.join(READERS)}), or a folder or data set of the hub that has the "
            "split; a configuration follows a colon: nyu-mll/glue:sst2",
        ) from error
    for column, feature in found.features.items():
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names is not None:
            frame[column] = pd.Series(
                [_named(cell, names) for cell in frame[column]], index=frame.index, dtype=object
            )
    return frame


def _data_set(path: str, configuration: str | None, split: str) -> Any:
    """Return a split as `datasets` loads it, or the table of its files of text."""
    import datasets

    folder = Path(path)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        saved = datasets.load_from_disk(path)
        return saved if isinstance(saved, datasets.Dataset) else saved[split]
    files = _files_of_text(datasets.load_dataset_builder(path, configuration), split)
    if files:
        copies = datasets.DownloadManager().download_and_extract(files)
        return _together([Path(file) for file in files], [Path(copy) for copy in copies])
    return datasets.load_dataset(path, configuration, split=split)


def _files_of_text(builder: Any, split: str) -> list[str]:
    """Return the files of a split, if nothing but their suffix says how they are read.

    `datasets` would turn their cells into numbers, truth values and dates.
    """
    settings = vars(builder.config)
    separators = {settings.get("sep", ","), settings.get("delimiter") or ","}
    if builder.info.features is not None or settings.get("field") or separators != {","}:
        return []
    files = {str(key): value for key, value in (builder.config.data_files or {}).items()}
    names = [str(file) for file in files.get(split, ())]
    plain = all(kind_of(Path(name)) not in (None, ".parquet") for name in names)
    return names if plain else []


def _named(value: Any, names: list[str]) -> Any:
    """Return the names of one class number or of a list of them; -1, for no label, is null."""
    if isinstance(value, list):
        return [_named(number, names) for number in value]
    return names[value] if value is not None and 0 <= value < len(names) else None


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
    folder = Path(source).parent if kind_of(Path(source)) is not None else Path(source)
    found = [
        value.get("bytes") or value.get("path") if isinstance(value, dict) else value
        for value in values
    ]
    return [str(folder / value) if isinstance(value, str) else value for value in found]


def column(
    frame: pd.DataFrame, source: str, given: str | None, usual: tuple[str, ...], what: str
) -> str:
    """Return the column's name: `given`, or the first of the `usual` ones that the table has.

    Raises :class:`DataError` if the table, read from `source`, has none of them.
    """
    names = [given] if given else usual
    for name in names:
        if name in frame.columns:
            return str(name)
    asked = repr(given) if given else f"among {', '.join(usual)}"
    raise missing_column(source, what, asked, frame.columns)


def filled(values: pd.Series, source: str, what: str) -> pd.Series:
    """Return `values` as texts. Raises :class:`DataError` if any is missing or blank."""
    return _texts(values, source, what, lambda text: not text.strip())


def named_values(values: pd.Series, source: str, what: str, known: Iterable[str] = ()) -> pd.Series:
    """Return `values`, such as labels, as texts.

    Raises :class:`DataError` if any is missing, also in one of `MISSING_SPELLINGS` that is not
    among the `known`.
    """
    missing = MISSING_SPELLINGS - set(known)
    return _texts(values, source, what, lambda text: not text.strip() or text.strip() in missing)


def numbers(values: pd.Series, source: str, what: str) -> pd.Series:
    """Return `values` as floats. Raises :class:`DataError` if any is not a finite number."""
    return _converted(values, source, what, as_number, NUMBERS).astype(float)


def times(values: pd.Series, source: str, what: str) -> pd.Series:
    """Return `values` as numbers or as dates, which can be ordered.

    Raises :class:`DataError` if any is neither, or if there are both.
    """
    found = _converted(values, source, what, as_time, TIMES)
    kinds = [_comparable_with(time) for time in found]
    other = [row for row, kind in enumerate(kinds) if kind != kinds[0]]
    if other:
        raise DataError(
            f"{source} has {what}s that cannot be compared in the column {values.name!r}: "
            f"{values.iloc[0]!r} in row 1, {values.iloc[other[0]]!r} in row {other[0] + 1}",
            "write all as numbers, all as dates, or all as dates with a time zone",
        )
    return found


def _comparable_with(time: object) -> str:
    if not isinstance(time, datetime):
        return "numbers"
    return "dates" if time.tzinfo is None else "dates with a time zone"


NUMBERS = ("a number", "numbers")
"""Words for one number and for several, in errors."""

TIMES = ("a number or a date as 2026-01-31 12:00", "times")
"""Words for one time and for several, in errors."""


def _converted(
    values: pd.Series,
    source: str,
    what: str,
    convert: Callable[[Any], Any],
    words: tuple[str, str],
) -> pd.Series:
    one, several = words
    found = [convert(cell) for cell in values]
    wrong = [row for row, value in enumerate(found) if value is None]
    if wrong:
        raise DataError(
            f"{source} has {len(wrong)} rows whose {what} is not {one}, the first "
            f"{values.iloc[wrong[0]]!r} in row {wrong[0] + 1}",
            f"the task needs {several} in the column {values.name!r}",
        )
    return pd.Series(found, index=values.index, dtype=object)


def _texts(
    values: pd.Series, source: str, what: str, is_missing: Callable[[str], bool]
) -> pd.Series:
    cells = list(values)
    texts = ["" if is_null(cell) else as_text(cell) for cell in cells]
    for row, (cell, text) in enumerate(zip(cells, texts, strict=True), 1):
        if text is None:
            raise DataError(
                f"{source} has {type(cell).__name__} in the column {values.name!r} where the "
                f"{what} should be, in row {row}",
                f"the task needs a column of {what}",
            )
    missing = [row for row, text in enumerate(texts) if is_missing(text or "")]
    if missing:
        raise _without(missing, cells, values.name, source, what)
    return pd.Series(texts, index=values.index, dtype=object)


def _without(
    missing: Sequence[int], cells: Sequence[Any], name: object, source: str, what: str
) -> DataError:
    """Describe the rows (0-based) that have no value in the column `name`."""
    listed = [f"{row + 1} ({_shown(cells[row])})" for row in missing[:NAMED_ROWS]]
    rest = len(missing) - len(listed)
    spelled = any(isinstance(cells[row], str) and cells[row].strip() for row in missing)
    return DataError(
        f"{source} has {len(missing)} rows without {what}, the first at row {missing[0] + 1}, in "
        f"the column {name!r}: {', '.join(listed)}{f' and {rest} more' if rest else ''}",
        "remove them or fill them in"
        + ("; a label of that name is kept where task.labels lists it" if spelled else ""),
    )


def _shown(cell: object) -> str:
    return "null" if is_null(cell) else json.dumps(cell, ensure_ascii=False)
