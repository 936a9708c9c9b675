"""Run a study: configuration, Optuna study, Ray Tune, command line.

The package can be called: ``sharetune.search(model, data)`` is `python/searching.py`'s `search`.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharetune.search.python.run import Run


class _Callable(ModuleType):
    """A module that can be called as its main function."""

    def __call__(self, *args: Any, **options: Any) -> "Run":
        """Search the plans of a model; see :func:`sharetune.search.python.searching.search`."""
        from sharetune.search.python.searching import search

        return search(*args, **options)

    @property
    def __signature__(self) -> Any:
        """The arguments, for notebooks that show them."""
        from inspect import signature

        from sharetune.search.python.searching import search

        return signature(search)


sys.modules[__name__].__class__ = _Callable
