"""Compare a study file with the study that it is to continue.

Both are read by this version, and paths are compared relative to the study file, so that a renamed
project is the same study.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.search.config import StudyConfig
from sharetune.spaces.errors import RunError
from sharetune.spaces.paths import relocated
from sharetune.spaces.run_folder import RunFolder
from sharetune.spaces.texts import shortened, shown
from sharetune.spaces.yaml_text import write_yaml

MOST_NAMED = 4
"""Differences that an error names; it counts the others."""

MOST_CHARACTERS = 80
"""Characters of a section that an error shows."""

FIXED = (
    "model",
    "task",
    "metric",
    "lm_eval",
    "objectives",
    "space",
    "anchors",
    "plans",
    "seed",
    "sampler",
    "storage",
)
"""Keys that a resumed study must not change: its trials would no longer be comparable."""

PLACED = ("model", "task", "start_from")
"""Keys of a study that hold paths."""

HERE = "."
"""The folder of a study file, in paths that are compared."""


def places(config: StudyConfig, run: Path) -> dict[str, str]:
    """Return the absolute folders that the paths of a study are looked up from."""
    return {"run": str(run)} | ({} if config.folder is None else {"study": str(config.folder)})


def differences(
    config: StudyConfig, run: Path, attributes: Mapping[str, Any], keys: tuple[str, ...]
) -> list[str]:
    """List what differs under `keys` between a study file and the stored study of a run.

    Each difference is its place in the file, with the values of both, short.
    """
    now, then = places(config, run), attributes.get(record.PLACES) or {}
    given = _without_places(config.model_dump(mode="json"), now)
    stored = _without_places(_as_read_now(attributes[record.CONFIG]), now | then)
    return [text for key in keys for text in _differences(key, stored.get(key), given[key])]


def other_study(run: Path, changed: list[str]) -> RunError:
    """Return the error of resuming a run with a study that differs in what is `changed`."""
    return RunError(
        f"the study is not the one that {run} was started with: {named(changed)}",
        f"give the values of the run, which are in {RunFolder(run).study_file}, or start a new run "
        "with --out",
    )


def other_keys(section: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """List what differs between the `given` keys of a section and those of a stored study."""
    pairs = ((key, stored.get(key), value) for key, value in given.items())
    return [text for key, *both in pairs for text in _differences(f"{section}.{key}", *both)]


def named(found: list[str]) -> str:
    """Join differences for an error."""
    rest = len(found) - MOST_NAMED
    return "; ".join([*found[:MOST_NAMED], *([f"and {rest} more"] if rest > 0 else [])])


def _as_read_now(stored: dict[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with the defaults of keys that its version did not have."""
    try:
        return StudyConfig.model_validate(stored).model_dump(mode="json")
    except ValueError:
        return stored


def _without_places(data: Any, folders: Mapping[str, str]) -> Any:
    for name in ("run", "study"):
        if name in folders:
            data = relocated(data, folders[name], f"{HERE}{name}")
    return data


def _differences(place: str, stored: Any, given: Any) -> Iterator[str]:
    if stored == given:
        return
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in dict.fromkeys([*stored, *given]):
            yield from _differences(f"{place}.{key}", stored.get(key), given.get(key))
    elif isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        for i, (one, other) in enumerate(zip(stored, given, strict=True)):
            yield from _differences(f"{place}.{i}", one, other)
    elif any(isinstance(each, dict) for value in (stored, given) for each in _entries(value)):
        yield f"{place} had {len(_entries(stored))} and has {len(_entries(given))} entries"
    else:
        yield f"{place} was {_short(stored)} and is {_short(given)}"


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _short(value: Any) -> str:
    """Write a value as Python does; a section as YAML, without what is null in it, cut."""
    if not isinstance(value, dict):
        return shown(value)
    said = {key: each for key, each in value.items() if each is not None}
    return shortened(" ".join(write_yaml(said, flow=True).split()), MOST_CHARACTERS)
