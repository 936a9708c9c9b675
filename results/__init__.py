"""Reads a study: table, front, hypervolume, figures and report. Needs no torch, no ray.

>>> import results
>>> frame = results.load("runs/bbc-news")                            # doctest: +SKIP
>>> results.write_report("runs/bbc-news")                            # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from results.front import pareto_front
    from results.report import write_report
    from results.study import load

__all__ = ["load", "pareto_front", "write_report"]

_HOMES = {
    "load": "results.study",
    "pareto_front": "results.front",
    "write_report": "results.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'results' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
