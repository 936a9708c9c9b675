"""Read YAML, with numbers such as 1e-5 as numbers."""

import re
from typing import Any

import yaml

WHOLE = re.compile(r"[-+]?[0-9]+")
"""A whole number in a text."""

NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
"""A number in a text, as YAML 1.2 writes it."""


class _Loader(yaml.SafeLoader):
    """The safe loader of YAML 1.1, with the numbers of YAML 1.2: no point or sign is needed."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),  # 1.1 reads the others
    list("-+.0123456789"),
)


def read_yaml(text: str) -> Any:
    """Return the values that a YAML text holds. Raises ``yaml.YAMLError`` for other texts."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def as_number(value: object) -> Any:
    """Return the number that a text writes; any other value as it is."""
    if not isinstance(value, str) or not NUMBER.fullmatch(value.strip()):
        return value
    return int(value) if WHOLE.fullmatch(value.strip()) else float(value)
