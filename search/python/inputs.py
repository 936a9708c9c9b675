"""Write a model and data that live in a Python process as ordinary files of a run folder.

A search then finds them as it finds those of a study file, on any worker and after any crash.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import transformers
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from transformers import AutoTokenizer, PreTrainedModel

from sharetune.spaces.errors import DataError, ModelError, RunError
from sharetune.spaces.run_folder import RunFolder
from sharetune.spaces.whole_files import follow_umask
from sharetune.trainers.models.sharing import is_shared

Model: TypeAlias = PreTrainedModel | Path | str
"""A model in memory, a folder, or a hub name."""

Split: TypeAlias = pd.DataFrame | Dataset | TorchDataset[Any] | Path | str
"""Examples: a table, a data set of either library, a file, or a hub name."""

Data: TypeAlias = Split | tuple[Split, Split] | Mapping[str, Split]
"""One split, a training and a test split, or splits by name."""

SPLITS = ("train", "validation", "test")
"""Names of splits."""

MODEL = "model"
"""The folder of a live model, with what reads its data."""

WEIGHTS_AND_ROWS = ("*.safetensors", "*.parquet", "*.arrow", "config.json")
"""Files whose content says whether inputs are the same; others hold times and paths."""

UNNAMED = "LABEL_"
"""Beginning of the labels that a configuration has by default."""


@dataclass(frozen=True)
class Inputs:
    """A model and splits of data as a study names them: hub names, or paths of files.

    `keys` are those of the task that follow from the model, such as its labels in order.
    `of_tensors` says that the data are torch data sets.
    """

    model: str
    splits: Mapping[str, str]
    keys: Mapping[str, Any] = field(default_factory=dict)
    of_tensors: bool = False


def write_inputs(
    model: Model, data: Data, tokenizer: object, run: RunFolder, resume: bool
) -> Inputs:
    """Write what is live of a model and data into the run folder; return how a study names all.

    Raises :class:`ModelError` or :class:`DataError` for what cannot be written, and
    :class:`RunError` if a run that is resumed was started with others.
    """
    splits = named_splits(data)
    run.path.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=run.path, prefix="inputs-", suffix=".part"))
    try:
        if not isinstance(model, str | Path):
            _write_model(model, tokenizer, scratch / MODEL)
        written = {name: _write_split(split, scratch / name) for name, split in splits.items()}
        keys = _keys(model, splits.get("train"))
        _place(scratch, run, resume)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Inputs(
        str(model) if isinstance(model, str | Path) else str(run.inputs.resolve() / MODEL),
        {name: _in_place(path, scratch, run) for name, path in written.items()},
        keys,
        any(map(_is_torch, splits.values())),
    )


def named_splits(data: Data) -> dict[str, Split]:
    """Return the splits of `data` by name.

    It is one split, a pair of training and test split, or a mapping such as a ``DatasetDict``. A
    validation split without a test split is the test split. Raises :class:`DataError`.
    """
    if isinstance(data, Mapping):
        found = dict(data)
    elif isinstance(data, tuple) and len(data) == 2:
        found = dict(zip(("train", "test"), data, strict=True))
    else:
        found = {"train": data}
    unknown = [str(name) for name in found if name not in SPLITS]
    if unknown or "train" not in found:
        raise DataError(
            f"data need a split train, and may have test and validation, but got "
            f"{', '.join(map(str, found)) or 'none'}",
            'for example {"train": frame, "test": other}',
        )
    if "validation" in found and "test" not in found:
        found["test"] = found.pop("validation")
    return found


def _write_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"a model is a hub name, a folder or a PreTrainedModel, but got {type(model).__name__}",
            'for example AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")',
        )
    if is_shared(model):
        raise ModelError(
            f"{type(model).__name__} is shared already", "search plans for the unshared model"
        )
    if getattr(transformers, type(model).__name__, None) is not type(model):
        raise ModelError(
            f"{type(model).__name__} is no class of the library, so that workers cannot load it",
            "use a model of one of the library's classes",
        )
    model.save_pretrained(folder)
    reader = tokenizer if tokenizer is not None else _own_tokenizer(model)
    if reader is not None:
        reader.save_pretrained(folder)


def _own_tokenizer(model: PreTrainedModel) -> Any:
    """Load the tokenizer of the checkpoint that a model came from; None where there is none."""
    try:
        return AutoTokenizer.from_pretrained(model.name_or_path)
    except (OSError, ValueError, KeyError):
        return None


def _write_split(split: Split, path: Path) -> str:
    """Write a split that is live; return its path, or the file or hub name that it is."""
    if isinstance(split, str | Path):
        return str(split)
    if isinstance(split, Dataset):
        split.save_to_disk(path)
        return str(path)
    file = path.with_suffix(".parquet")
    if isinstance(split, pd.DataFrame):
        frame = split.reset_index(drop=True)
    elif _is_torch(split):
        frame = pd.DataFrame(list(_examples(split)))
    else:
        raise DataError(
            f"a split is a frame, a data set, a file or a hub name, but got {type(split).__name__}",
            "give a pandas.DataFrame, a datasets.Dataset or a torch data set with a length",
        )
    if frame.empty:
        raise DataError(f"the split {path.name} has no rows", "give at least one")
    _to_parquet(frame, file)
    return str(file)


def _to_parquet(frame: pd.DataFrame, file: Path) -> None:
    try:
        frame.rename(columns=str).to_parquet(file, index=False)
    except (ValueError, TypeError, OSError) as error:
        text = str(error).splitlines()[0]
        raise DataError(
            f"the split {file.stem} cannot be written as a table: {text}",
            "each column holds values of one type: texts, numbers, bytes, or lists of these",
        ) from error


def _is_torch(split: Split) -> bool:
    """Return whether `split` is a data set of torch's kind: numbered examples."""
    known = isinstance(split, str | Path | Dataset | pd.DataFrame)
    return not known and hasattr(split, "__getitem__") and hasattr(split, "__len__")


def _examples(split: Any) -> Iterator[dict[str, Any]]:
    """Yield the examples as plain data; those that are tuples by their places."""
    for number in range(len(split)):
        example = split[number]
        items = example if isinstance(example, Mapping) else enumerate(_as_tuple(example))
        pairs = items.items() if isinstance(items, Mapping) else items
        yield {str(name): _plain(value) for name, value in pairs}


def _as_tuple(example: object) -> tuple[Any, ...]:
    if isinstance(example, tuple | list):
        return tuple(example)
    raise DataError(
        f"an example is a mapping or a tuple of inputs, but got {type(example).__name__}",
        'for example {"input_ids": tensor, "labels": 1}',
    )


def _plain(value: object) -> Any:
    return value.tolist() if isinstance(value, Tensor) or hasattr(value, "tolist") else value


def _keys(model: Model, train: Split | None) -> dict[str, Any]:
    """Return the task's labels in the order in which a live model's head has them.

    Without them they would be sorted, and a trained head would mean others. None where the
    model's configuration or the data do not name them.
    """
    config = getattr(model, "config", None)
    names = [str(name) for name in (getattr(config, "id2label", None) or {}).values()]
    column = next((c for c in ("label", "labels") if c in _columns(train)), None)
    if not names or column is None:
        return {}
    found = {str(value) for value in _cells(train, column)}
    numbered = [str(number) for number in range(len(names))]
    if all(name.startswith(UNNAMED) for name in names):
        names = numbered
    return {"labels": names} if found and found <= set(names) else {}


def _columns(train: Split | None) -> list[str]:
    if isinstance(train, pd.DataFrame):
        return [str(name) for name in train.columns]
    return train.column_names if isinstance(train, Dataset) else []


def _cells(train: Any, column: str) -> list[Any]:
    if isinstance(train, pd.DataFrame):
        return [cell for cell in train[column] if isinstance(cell, str | int)]
    names = getattr(train.features[column], "names", None)
    cells = [cell for cell in train[column] if isinstance(cell, str | int)]
    return [names[cell] for cell in cells] if names else cells


def _place(scratch: Path, run: RunFolder, resume: bool) -> None:
    """Move new inputs into the run folder; of a resumed run, see that they are the same."""
    if resume:
        if run.inputs.exists() and digest(scratch) != digest(run.inputs):
            raise RunError(
                f"the model or the data are not those that {run.path} was started with",
                "give the same ones, or start a new run with out=",
            )
        return
    shutil.rmtree(run.inputs, ignore_errors=True)
    if any(scratch.iterdir()):
        follow_umask(scratch)
        scratch.rename(run.inputs)


def _in_place(path: str, scratch: Path, run: RunFolder) -> str:
    inside = Path(path)
    if not inside.is_relative_to(scratch):
        return path
    return str(run.inputs.resolve() / inside.relative_to(scratch))


def digest(folder: Path) -> str:
    """Return a digest of the weights, configurations and rows in a folder."""
    found = hashlib.sha256()
    for pattern in WEIGHTS_AND_ROWS:
        for path in sorted(folder.rglob(pattern)):
            found.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
