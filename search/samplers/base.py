"""Define what a sampler is, and find the one that a study names.

A sampler keeps what the study has shown in memory and draws from it; the study's storage only
records. A new one is one file here with one function or class registered in `SAMPLERS`.

Every draw is seeded by the study's seed and the number of draws before it, so that a resumed study
goes on where it was and does not repeat its first points.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from sharetune.results.reading.trial import Draw
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.objectives import Objective
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.registry import Registry, did_you_mean
from sharetune.spaces.space import Space
from sharetune.spaces.stack_shape import StackShape

AUTO = "auto"
LEAST_TO_LEARN = 12
"""Trials in a budget from which `auto` goes by a model of what was seen."""


@dataclass(frozen=True)
class Setting:
    """The facts of a study that a sampler needs. `reference` is the hypervolume's, by objective.

    `weighs_fast` says whether sizes take milliseconds to know.
    """

    objectives: tuple[Objective, ...]
    seed: int
    budget: int
    reference: Mapping[str, float]
    weighs_fast: bool = True


@dataclass(frozen=True)
class Ask:
    """The questions a sampler may ask while it draws: `drawn` counts the draws before.

    `is_known` says whether the candidate of a key needs no training any more; `weigh` gives what is
    known of a candidate before training, or None where it may not be trained. Where a study
    measures how far untrained plans are from the unshared model, `measure` returns the distance of
    a candidate's plan, or None if there is no time for it.
    """

    space: Space
    shapes: Mapping[str, StackShape]
    drawn: int
    is_known: Callable[[str], bool]
    weigh: Callable[[Candidate], dict[str, float] | None]
    measure: Callable[[Candidate], float | None] | None = None


@dataclass(frozen=True)
class Past:
    """A trial as samplers see it. `expected` estimates the final values of a stopped one."""

    number: int
    candidate: Candidate
    draw: Draw
    state: TrialState
    exact: dict[str, float] | None = None
    values: tuple[float, ...] | None = None
    expected: np.ndarray | None = None


class Sampler(Protocol):
    """Draws candidates, and notes every trial as it starts and as it ends."""

    def draw(self, ask: Ask) -> tuple[Candidate, Draw]: ...
    def note(self, past: Past) -> None: ...


Make = Callable[..., Sampler]
"""``(setting, **arguments) -> sampler``."""

SAMPLERS: Registry[Make] = Registry("sampler", package="sharetune.search.samplers")

Adapter = Callable[[str, dict[str, Any]], Callable[[Setting], Sampler]]
"""``(name, arguments) -> what makes the sampler``; raises :class:`ConfigError`."""

ADAPTERS: Registry[Adapter] = Registry("source of samplers", package="sharetune.search.samplers")
"""How samplers that are not registered are found by name."""

Choice = str | dict[str, Any]
"""A sampler as a study names it: ``NAME``, or ``{NAME: {argument: value}}``."""


def make_sampler(choice: Choice, setting: Setting) -> Sampler:
    """Make the sampler of a study. Raises :class:`ConfigError` as :func:`maker_of` does, and for
    one that cannot be used for this study's objectives."""
    return maker_of(choice)(setting)


def maker_of(choice: Choice) -> Callable[[Setting], Sampler]:
    """Find the sampler that `choice` names: ``auto``, a registered name, a class of Optuna, a
    class by its dotted path, or OptunaHub's as ``{hub: {package: ..}}``.

    Raises :class:`ConfigError` for a name or an argument that is not known.
    """
    name, arguments = _read(choice)
    if name == AUTO:
        check_arguments(AUTO, arguments, ())
        return lambda setting: SAMPLERS[_chosen(setting)](setting)
    if name in SAMPLERS:
        make = SAMPLERS[name]
        check_arguments(name, arguments, [*signature(make).parameters][1:])
        return lambda setting: make(setting, **arguments)
    return ADAPTERS[_source(name)](name, arguments)


def check_arguments(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise :class:`ConfigError` for the first of the `given` arguments that is not `known`."""
    available = list(known)
    for argument in given:
        if argument not in available:
            raise ConfigError(
                f"unknown argument of {name}: {argument!r}",
                did_you_mean(argument, available) if available else "it takes none",
            )


def _read(choice: Choice) -> tuple[str, dict[str, Any]]:
    if isinstance(choice, str):
        return choice, {}
    name, arguments = next(iter(choice.items()), ("", None))
    if len(choice) != 1 or not isinstance(arguments or {}, dict):
        raise ConfigError(
            f"a sampler is a name or one `name: arguments`, but got {choice!r}",
            "for example {GPSampler: {n_startup_trials: 10}}",
        )
    return str(name), arguments or {}


def _source(name: str) -> str:
    if name in ADAPTERS:
        return name
    return "class" if "." in name else "optuna"


def _chosen(setting: Setting) -> str:
    if setting.budget < LEAST_TO_LEARN:
        return "random"
    return "guided" if setting.weighs_fast else "tpe"


def draw_seed(seed: int, drawn: int) -> int:
    """Return the seed of one draw, from the study's seed and the number of draws before."""
    return (seed * 1_000_003 + drawn) % 2**32


def draw_of(trial: FrozenTrial) -> Draw:
    """Return the draw that a trial was started with."""
    return Draw(dict(trial.params), dict(trial.distributions), dict(trial.system_attrs))
