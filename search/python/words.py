"""Say errors in the words of Python: arguments for options, and what was given for its files."""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from datasets import Dataset

from sharetune.search.python.inputs import MODEL, Data, named_splits
from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.run_folder import RunFolder

SETTING = re.compile(r"(?:on the command line by )?--set ([\w.]+)=([\w.]+)")
"""A setting as the command line takes it."""

ARGUMENTS = {"--resume": "resume=True", "--out": "out=", "--address": "address="}
"""Arguments of a search, by the options that they are on the command line."""


def in_python(error: SharetuneError, files: Mapping[str, str]) -> SharetuneError:
    """Return the error of a search with the arguments of a function in its hint.

    `files` name what was live, by the path it is written to.
    """
    message, hint = error.message, SETTING.sub(_argument, error.hint)
    for option, argument in ARGUMENTS.items():
        hint = hint.replace(option, argument)
    for path, name in files.items():
        message, hint = message.replace(path, name), hint.replace(path, name)
    return type(error)(message, hint)


def _argument(setting: re.Match[str]) -> str:
    """Write ``task.text=NAME`` as a keyword: ``task={..., "text": "NAME"}``."""
    section, *inner = setting[1].split(".")
    value = setting[2] if setting[2].isdigit() else f'"{setting[2]}"'
    if not inner:
        return f"{section}={value}"
    for key in reversed(inner):
        value = f'{{..., "{key}": {value}}}'
    return f"in Python {section}={value}"


def names_of_files(data: Data, run: RunFolder) -> dict[str, str]:
    """Return what the files of a run's live model and data are: ``the train frame``."""
    folder = run.inputs.resolve()
    names = {}
    for name, split in named_splits(data).items():
        if not isinstance(split, str | Path):
            kind = "frame" if isinstance(split, pd.DataFrame) else "data set"
            suffix = "" if isinstance(split, Dataset) else ".parquet"
            names[str(folder / f"{name}{suffix}")] = f"the {name} {kind}"
    return names | {str(folder / MODEL): "the given model"}
