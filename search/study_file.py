"""Read a study file, with the keys that a command sets, into a checked study."""

from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from sharetune.search.config import StudyConfig
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.paths import SUFFIXES, expanded
from sharetune.spaces.settings import read_settings, reason
from sharetune.spaces.texts import shortened, shown
from sharetune.spaces.yaml_text import read_yaml

WRITES_ONE = "`sharetune init` writes one for your model and data"
"""Hint where a study file is missing or empty."""


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Read the study file at `path` and apply ``key.key=value`` overrides.

    Raises :class:`ConfigError` that lists every mistake with its place in the file.
    """
    data = read_study_file(path)
    for each in overrides:
        override(data, each)
    data.setdefault("name", path.stem if path.stem != "study" else path.resolve().parent.name)
    config = validate(data, str(path), path.resolve().parent)
    located = config.model_copy(update=_absolute_paths(config, path.resolve().parent))
    located._folder = path.resolve().parent
    return located


def validate(data: Mapping[str, object], source: str, folder: Path | None = None) -> StudyConfig:
    """Validate `data` as a study, whose plugins may lie in `folder`.

    Raises :class:`ConfigError` that lists every mistake.
    """
    return read_settings(StudyConfig, data, source, folder=folder)


def read_study_file(path: Path) -> dict[str, Any]:
    """Read a study file as plain data. Raises :class:`ConfigError` if it is not one."""
    try:
        data = read_yaml(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no such study file: {path}", WRITES_ONE) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        read = " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")
        text = shortened(read, 400)
        raise ConfigError(f"{path} is not YAML in UTF-8: {text}", "check that line") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "name a file") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no keys", WRITES_ONE)
    return data


def override(data: dict[str, Any], setting: str) -> None:
    """Set one key of `data` by a text such as ``budget.trials=8``.

    Raises :class:`ConfigError` if the text is none or its place is not a section.
    """
    place, equals, value = setting.partition("=")
    if not equals or not all(place.split(".")):
        raise ConfigError(
            f"--set needs key=value, but got {shown(setting)}", "--set budget.trials=8"
        )
    *sections, key = place.split(".")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            raise ConfigError(
                f"--set {shortened(setting)}: {shortened(section)} is not a section",
                "check the key",
            )
    try:
        data[key] = read_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {shortened(setting)}: {shown(value)} is not YAML: {reason(error)}",
            "close its brackets and quotes",
        ) from None


def _absolute_paths(config: StudyConfig, folder: Path) -> dict[str, Any]:
    """Return the keys that name files or folders next to the study file, with absolute paths.

    Data are read here and reach workers through the run folder. Each machine looks for the model
    itself, so environment variables in its path are kept.
    """

    def absolute(value: Any) -> Any:
        value = expanded(value) if isinstance(value, str) else value
        looks_like_path = isinstance(value, str) and ("/" in value or "." in value)
        candidate = folder / value if looks_like_path else None
        is_file = candidate is not None and (
            candidate.exists() or candidate.suffix in SUFFIXES or bool(glob(str(candidate)))
        )
        return str(candidate.resolve()) if candidate is not None and is_file else value

    task = {key: absolute(value) for key, value in config.task.items()}
    local = folder / config.model
    start = config.start_from
    if start is not None:
        runs = tuple(str((folder / expanded(run)).resolve()) for run in start.runs)
        start = start.model_copy(update={"runs": runs})
    model = str(local.resolve()) if local.exists() else config.model
    harness = config.lm_eval.seen_from(folder)
    return {"task": task, "model": model, "start_from": start, "lm_eval": harness}
