"""Objects of the calling process that a study uses and no file holds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sharetune.results.reading.trial import Trial


@dataclass(frozen=True)
class Live:
    """Functions of a notebook or a script, for one search.

    `metric` is the one that the study's `metric` names, `collate` the one that its task names;
    None: they are imported. Each of `callbacks` is called with every trial that ends, also with
    one that was answered without training.
    """

    metric: Callable[..., Any] | None = None
    collate: Callable[..., Any] | None = None
    callbacks: tuple[Callable[[Trial], object], ...] = ()
