"""Run a study: configuration, Optuna study, Ray Tune, command line.

The package can be called: ``sharetune.search("study.yaml")`` is `run.search`.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A module that can be called as its main function."""

    def __call__(self, *args: Any, **options: Any) -> Path:
        """Search the plans of a study; see :func:`sharetune.search.run.search`."""
        from sharetune.search.run import search

        return search(*args, **options)


sys.modules[__name__].__class__ = _Callable
