"""Which versions of Ray and Optuna this room's reaches into their inside were tried with."""

import logging
from functools import cache
from importlib.metadata import version

TRIED = {"optuna": ("5.0",), "ray": ("2.60",)}
"""Releases by their first two numbers. Others get the libraries' own, slower ways."""

logger = logging.getLogger(__name__)


@cache
def is_known(library: str) -> bool:
    """Say whether the installed release of `library` is one that was tried; warn once if not."""
    installed = version(library)
    known = ".".join(installed.split(".")[:2]) in TRIED[library]
    if not known:
        logger.warning(
            "%s %s was not tried with ShareTune (%s was): its own, slower ways are used",
            library,
            installed,
            ", ".join(TRIED[library]),
        )
    return known
