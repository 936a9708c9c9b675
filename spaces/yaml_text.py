"""Read YAML of any origin: numbers such as 1e-5 as numbers, and nothing that could be endless.

The values are plain: texts, finite numbers, booleans, null, lists, and sections whose keys are
texts, each only once. A text that would take much room or time is refused.
"""

import math
import re
from typing import Any

import yaml

WHOLE = re.compile(r"[-+]?[0-9]+")
"""A whole number in a text."""

NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
"""A number in a text, as YAML 1.2 writes it."""

MOST_CHARACTERS = 1_000_000
"""Characters of a text; one of a study with a thousand plans has a tenth."""

MOST_DEPTH = 40
"""Lists and sections inside one another."""

MOST_VALUES = 200_000
"""Values, each counted as often as aliases repeat it."""

MOST_DIGITS = 40
"""Characters of a number in a text."""

LARGEST = 10**15
"""Largest whole number, which all programs that read JSON keep exact."""


class _Loader(yaml.SafeLoader):
    """The safe loader of YAML 1.1, with the numbers of YAML 1.2: no point or sign is needed."""


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which quotes texts that the loader would take for numbers."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),  # 1.1 reads the others
        list("-+.0123456789"),
    )


def _text(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    """Return the text of a date: settings have none, and names may look like one."""
    return str(node.value)


yaml.add_constructor("tag:yaml.org,2002:timestamp", _text, _Loader)


def read_yaml(text: str) -> Any:
    """Return the values that a YAML text holds. Raises ``yaml.YAMLError`` for other texts."""
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(
            f"it has {len(text):,} characters, and {MOST_CHARACTERS:,} are allowed"
        )
    try:
        return _read(text)
    except yaml.YAMLError:
        raise
    except Exception as error:  # the reader's own, of numbers and depths it cannot take
        raise yaml.YAMLError(f"it holds what cannot be read: {type(error).__name__}") from error


def write_yaml(value: object, *, flow: bool | None = False) -> str:
    """Write plain values so that :func:`read_yaml` reads them back; `flow` None: short lists so."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=flow))


def _read(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_endless(node)
        values = loader.construct_document(node)
    finally:
        loader.dispose()
    refuse_unplain(values)
    return values


def _refuse_endless(root: yaml.Node) -> None:
    """Raise an error for a node inside itself, for repeated keys, and for too many values."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, inside: tuple[int, ...]) -> int:
        if id(node) in inside:
            raise yaml.MarkedYAMLError(problem="a value holds itself", problem_mark=node.start_mark)
        if len(inside) > MOST_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"values lie more than {MOST_DEPTH} deep", problem_mark=node.start_mark
            )
        if id(node) not in sizes:
            children = _children(node)
            sizes[id(node)] = 1 + sum(size(child, (*inside, id(node))) for child in children)
        return sizes[id(node)]

    if size(root, ()) > MOST_VALUES:
        raise yaml.YAMLError(f"it has more than {MOST_VALUES:,} values")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise yaml.MarkedYAMLError(
                problem=f"the key {key.value[:80]!r} is there twice", problem_mark=key.start_mark
            )
        seen.add(str(key.value) if isinstance(key, yaml.ScalarNode) else "")
    return [each for pair in node.value for each in pair]


def refuse_unplain(value: Any) -> None:
    """Raise ``yaml.YAMLError`` for values that JSON does not have."""
    if isinstance(value, dict):
        for key, child in value.items():
            if not isinstance(key, str):
                raise yaml.YAMLError(f"a key must be a text, but got {str(key)[:80]}: quote it")
            refuse_unplain(child)
    elif isinstance(value, list):
        for child in value:
            refuse_unplain(child)
    elif isinstance(value, float) and not math.isfinite(value):
        raise yaml.YAMLError(f"numbers must be finite, but got {value}")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise yaml.YAMLError(f"whole numbers are at most {LARGEST:,} in size")
    elif not isinstance(value, str | int | float | None):
        raise yaml.YAMLError(f"a {type(value).__name__} is no value of a study or a plan")


def as_number(value: object) -> Any:
    """Return the number that a text writes; any other value as it is."""
    if not isinstance(value, str) or not NUMBER.fullmatch(value.strip()):
        return value
    if len(value) > MOST_DIGITS:
        return value
    return int(value) if WHOLE.fullmatch(value.strip()) else float(value)
