"""Let a configuration list what its class works out of each layer by a rule.

Jamba's ``layer_types`` follow from a period and an offset, which no longer say it once a layer is
dropped. The object then answers with a list of its own; files and other objects of the class do
not.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from transformers import PreTrainedConfig

LISTS = "lists_of_layers"
"""The attribute that holds the lists by the name of what they stand for."""

PLAIN_CLASS = "_plain_class"
"""The attribute of a class of listed configurations that names the class they had before."""

PLAIN = (str, int, float, type(None))
"""Types of what a configuration says of a layer."""


def worked_out(config: PreTrainedConfig, length: int) -> dict[str, list[Any]]:
    """Return the lists of `length` that properties of the configuration's class work out."""
    names = {
        name
        for kind in type(config).__mro__
        for name, value in vars(kind).items()
        if isinstance(value, property) and not name.startswith("_") and "layer" in name
    }
    found = {name: _said(config, name) for name in sorted(names)}
    return {name: own for name, own in found.items() if own is not None and len(own) == length}


def _said(config: PreTrainedConfig, name: str) -> list[Any] | None:
    """Return what a property lists as plain values; None if it does not."""
    try:
        own = getattr(config, name)
    except Exception:  # whatever a rule raises on a depth that it does not fit
        return None
    plain = isinstance(own, list | tuple) and all(isinstance(v, PLAIN) for v in own)
    return list(own) if plain else None


def list_(config: PreTrainedConfig, lists: Mapping[str, list[Any]]) -> None:
    """Let `config` answer with these `lists`, in place, where its class works out others."""
    differing = {name: own for name, own in lists.items() if _said(config, name) != own}
    if differing:
        vars(config)[LISTS] = vars(config).get(LISTS, {}) | differing
        config.__class__ = _listed_class(plain_class(config), tuple(sorted(vars(config)[LISTS])))


def plain_class(config: PreTrainedConfig) -> Any:
    """Return the class of a configuration as the library has it."""
    return getattr(type(config), PLAIN_CLASS, type(config))


@cache
def _listed_class(kind: Any, names: tuple[str, ...]) -> Any:
    """Return the class of configurations of `kind` that list what `names` stand for."""
    own: dict[str, Any] = {name: property(_from_list(name)) for name in names}
    return type(kind.__name__, (kind,), own | {PLAIN_CLASS: kind, "__reduce_ex__": _reduced})


def _from_list(name: str) -> Any:
    return lambda config: list(vars(config)[LISTS][name])


def _reduced(config: Any, protocol: object) -> Any:
    return _restored, (plain_class(config), dict(vars(config)))


def _restored(kind: Any, state: dict[str, Any]) -> Any:
    """Return a configuration that was pickled or copied."""
    config = kind.__new__(kind)
    vars(config).update(state)
    config.__class__ = _listed_class(kind, tuple(sorted(state[LISTS])))
    return config
