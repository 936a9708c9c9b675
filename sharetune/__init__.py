"""ShareTune: AutoML search over cross-layer parameter-sharing plans for Transformers.

>>> from sharetune import SharingPlan, load_shared, share_params       # doctest: +SKIP

Nothing of torch, Ray or Optuna is imported before a name that needs it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharetune.results import load, pareto_front, write_report
    from sharetune.search.python import plans
    from sharetune.search.python.plans import draw, share
    from sharetune.search.python.run import Run
    from sharetune.search.python.searching import search
    from sharetune.spaces import Candidate, Group, Recipe, SharingPlan
    from sharetune.trainers import is_shared, load_shared, materialize_, share_, share_params

__all__ = [
    "Candidate",
    "Group",
    "Recipe",
    "Run",
    "SharingPlan",
    "draw",
    "is_shared",
    "load",
    "load_shared",
    "materialize_",
    "pareto_front",
    "plans",
    "search",
    "share",
    "share_",
    "share_params",
    "write_report",
]

_HOMES = {
    **dict.fromkeys(("Candidate", "Group", "Recipe", "SharingPlan"), "sharetune.spaces"),
    **dict.fromkeys(
        ("is_shared", "load_shared", "materialize_", "share_", "share_params"),
        "sharetune.trainers",
    ),
    **dict.fromkeys(("draw", "share"), "sharetune.search.python.plans"),
    "Run": "sharetune.search.python.run",
    **dict.fromkeys(("load", "pareto_front", "write_report"), "sharetune.results"),
}

_MODULES = {"plans": "sharetune.search.python.plans", "search": "sharetune.search"}
"""Names that are modules; `search` can be called."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("sharetune.search.commands.doctor").own_version()
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'sharetune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
