"""Objects of the calling process that a study uses and no file holds."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sharetune.results.reading.trial import Trial
from sharetune.spaces.errors import RunError


def say_error(error: RunError) -> None:
    """Print an error to stderr as the command line does."""
    print(error.as_text(), file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Live:
    """Functions of a notebook or a script, for one search.

    `metric` is the one that the study's `metric` names, `collate` the one that its task names;
    None: they are imported. Each of `callbacks` is called with every trial that ends, also with
    one that was answered without training. `last_words` says an error with which the process ends
    without going back to its caller.
    """

    metric: Callable[..., Any] | None = None
    collate: Callable[..., Any] | None = None
    callbacks: tuple[Callable[[Trial], object], ...] = ()
    last_words: Callable[[RunError], None] = say_error
