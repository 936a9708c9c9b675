"""Compare a study file with the study that it is to continue.

Both are read by this version, and paths are compared relative to the study file, so that a renamed
project is the same study.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.search.config import StudyConfig
from sharetune.spaces.paths import relocated

MOST_NAMED = 4
"""Differences that an error names; it counts the others."""

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

    Each difference is its place in the file, with the values of both.
    """
    now, then = places(config, run), attributes.get(record.PLACES) or {}
    given = _without_places(config.model_dump(mode="json"), now)
    stored = _without_places(_as_read_now(attributes[record.CONFIG]), now | then)
    return [text for key in keys for text in _differences(key, stored.get(key), given[key])]


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
    else:
        yield f"{place} was {stored!r} and is {given!r}"
