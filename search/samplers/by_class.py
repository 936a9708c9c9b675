"""Samplers that are not registered: Optuna's classes, OptunaHub's, and classes by a dotted path.

Each is seeded by the study where its class takes a seed.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from sharetune.search.samplers.base import (
    ADAPTERS,
    AUTO,
    SAMPLERS,
    Sampler,
    Setting,
    check_arguments,
)
from sharetune.search.samplers.in_memory import InMemory, new_study, not_warned
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.registry import did_you_mean
from sharetune.spaces.texts import shown

SEED = "seed"
Maker = Callable[[Setting], Sampler]


def optunas_classes() -> dict[str, type[BaseSampler]]:
    """Return Optuna's sampler classes by name."""
    members = ((name, getattr(optuna.samplers, name)) for name in optuna.samplers.__all__)
    return {name: kind for name, kind in members if _is_sampler(kind)}


@ADAPTERS.register("optuna")
def from_optuna(name: str, arguments: Mapping[str, object]) -> Maker:
    """a class of Optuna's samplers: {GPSampler: {n_startup_trials: 10}}"""
    classes = optunas_classes()
    if name not in classes:
        raise ConfigError(
            f"unknown sampler: {name!r}", did_you_mean(name, [AUTO, *SAMPLERS, *classes])
        )
    return _maker(classes[name], name, arguments)


@ADAPTERS.register("class")
def from_path(name: str, arguments: Mapping[str, object]) -> Maker:
    """a class of one's own by its dotted path: {my_module.MySampler: {}}"""
    module, _, member = name.rpartition(".")
    try:
        kind = getattr(import_module(module), member)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the sampler {name} cannot be imported: {error}",
            "name its module in plugins, or install it",
        ) from error
    if not isinstance(kind, type):
        raise ConfigError(
            f"the sampler {name} is no class, but {kind!r}",
            "name a class of Optuna's BaseSampler, or one with draw and note",
        )
    return _maker(kind, name, arguments)


@ADAPTERS.register("hub")
def from_hub(name: str, arguments: dict[str, Any]) -> Maker:
    """a class of OptunaHub's: {hub: {package: samplers/auto_sampler, sampler: AutoSampler}}"""
    given = dict(arguments)
    package, member = given.pop("package", None), given.pop("sampler", None)
    if package is None:
        raise ConfigError(
            "a sampler of OptunaHub needs its package",
            "write {hub: {package: samplers/auto_sampler, sampler: AutoSampler}}",
        )
    return _maker(_class_in(_hub_module(package), package, member), f"{package}", given)


def _hub_module(package: str) -> Any:
    try:
        import optunahub
    except ImportError:
        raise ConfigError(
            "a sampler of OptunaHub needs optunahub", "pip install 'sharetune[hub]'"
        ) from None
    try:
        return optunahub.load_module(package)
    except Exception as error:  # of the network, of GitHub, of the package's own imports
        raise ConfigError(
            f"OptunaHub's package {package} cannot be loaded: {error}",
            "see https://hub.optuna.org for its name and for what it needs installed",
        ) from error


def _class_in(module: Any, package: str, member: str | None) -> type[BaseSampler]:
    """Return the class `member` of a package, or the only one that is defined in it."""
    own = {
        name: kind
        for name, kind in vars(module).items()
        if _is_sampler(kind) and kind.__module__.startswith(module.__name__)
    }
    if member is None and len(own) == 1:
        return next(iter(own.values()))
    if member not in own:
        raise ConfigError(
            f"{package} has no sampler {member!r}"
            if member
            else f"{package} has {len(own)} samplers",
            f"write sampler: and one of {', '.join(own) or 'no classes'}",
        )
    return own[member]


def _is_sampler(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseSampler) and not inspect.isabstract(kind)


def _maker(kind: Any, name: str, arguments: Mapping[str, object]) -> Maker:
    """Return what makes a sampler of the class `kind`: Optuna's, or one of this package's that
    takes a setting."""
    known = [parameter for parameter in inspect.signature(kind).parameters if parameter != SEED]
    optunas = _is_sampler(kind)
    check_arguments(name, arguments, known if optunas else known[1:])
    _check_numbers(name, arguments, inspect.signature(kind).parameters)
    if not optunas:
        return lambda setting: kind(setting, **arguments)
    takes_seed = SEED in inspect.signature(kind).parameters

    def made(seed: int) -> BaseSampler:
        sampler: BaseSampler = kind(**arguments, **({SEED: seed} if takes_seed else {}))
        return sampler

    def make(setting: Setting) -> Sampler:
        _try_out(made, setting, name)
        return InMemory(setting, made)

    return make


def _check_numbers(
    name: str, given: Mapping[str, object], known: Mapping[str, inspect.Parameter]
) -> None:
    """Raise :class:`ConfigError` for what cannot be meant where a number is the default."""
    for argument, value in given.items():
        default = known[argument].default
        is_number = isinstance(default, int | float) and not isinstance(default, bool)
        if is_number and (not isinstance(value, int | float | None) or isinstance(value, bool)):
            raise ConfigError(
                f"{name}.{argument} must be a number, but got {shown(value)}",
                f"its default is {default}",
            )
        if is_number and isinstance(value, int | float) and value < 0 <= default:
            raise ConfigError(
                f"{name}.{argument} must be at least 0, but got {value}",
                f"its default is {default}",
            )


def _try_out(made: Callable[[int], BaseSampler], setting: Setting, name: str) -> None:
    """Raise :class:`ConfigError` for a sampler that cannot be made, or that refuses the study's
    objectives, by a draw from a study of two numbers."""
    study = new_study(setting)
    try:
        with not_warned():
            study.sampler = made(setting.seed)
            trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        trial.suggest_int("n", 0, 9)
    except Exception as error:  # whatever a class of others raises
        raise ConfigError(
            f"the sampler {name} cannot be used here: {str(error).strip()}",
            "see Optuna's page on samplers for what it needs, or leave sampler out",
        ) from error
