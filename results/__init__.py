"""Read a study: table, front, hypervolume, figures and report. Needs no torch, no ray.

>>> from sharetune import results
>>> frame = results.load("runs/bbc-news")                            # doctest: +SKIP
>>> results.write_report("runs/bbc-news")                            # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharetune.results.judging.front import pareto_front
    from sharetune.results.page.report import write_report
    from sharetune.results.reading.study import load

__all__ = ["load", "pareto_front", "write_report"]

_HOMES = {
    "load": "sharetune.results.reading.study",
    "pareto_front": "sharetune.results.judging.front",
    "write_report": "sharetune.results.page.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sharetune.results' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
