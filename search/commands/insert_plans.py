"""Add plans to the text of a study file, all else of which stays as it is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sharetune.search.study_file import read_study_file
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.yaml_text import read_yaml, write_yaml

KEY = "plans"


def insert_plans(path: Path, plans: Sequence[dict[str, Any]]) -> int:
    """Add `plans`, as plain data, to those of a study file; return how many it did not have.

    Comments and the order of keys stay. Raises :class:`ConfigError` if the file is not one whose
    plans can be added to in place.
    """
    data = read_study_file(path)
    present = data.get(KEY) or []
    new = [plan for plan in plans if plan not in present]
    if not new:
        return 0
    text = path.read_text("utf-8")
    changed = _with_plans(text, new)
    if read_yaml(changed) != data | {KEY: [*present, *new]}:
        raise ConfigError(
            f"{path}: its plans are written in a way that none can be added to",
            "write them as a list, or take the plans from --out",
        )
    path.write_text(changed, "utf-8")
    return len(new)


def _with_plans(text: str, new: Sequence[dict[str, Any]]) -> str:
    value = _value(text)
    if value is None:
        return f"{text.rstrip()}\n\n{_block(KEY, new)}"
    if not isinstance(value, yaml.SequenceNode):
        return f"{text[: value.start_mark.index]} {_flow(new)}{text[value.end_mark.index :]}"
    if value.flow_style:
        end = value.end_mark.index - 1
        comma = ", " if value.value else ""
        return text[:end] + comma + _flow(new)[1:-1] + text[end:]
    end = text.find("\n", _last_index(value))
    end = len(text) if end < 0 else end
    margin = " " * value.start_mark.column
    lines = write_yaml(list(new), flow=None).rstrip()
    added = "".join(f"\n{margin}{line}" for line in lines.split("\n"))
    return text[:end] + added + text[end:]


def _value(text: str) -> yaml.Node | None:
    """Return the node of the plans, or None if the file has no such key."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return next((value for key, value in root.value if key.value == KEY), None)


def _last_index(node: yaml.Node) -> int:
    """Return the index at which a node's text ends; a block's text ends at the next key."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_index(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _block(key: str, new: Sequence[dict[str, Any]]) -> str:
    return write_yaml({key: list(new)}, flow=None)


def _flow(new: Sequence[dict[str, Any]]) -> str:
    return json.dumps(list(new))
