"""List what is registered, by kind."""

from collections.abc import Callable, Mapping
from importlib import import_module

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.registry import did_you_mean, summary


def _registered(module: str, attribute: str) -> Callable[[], dict[str, str]]:
    """Return what lists a registry, whose module is imported only then."""

    def entries() -> dict[str, str]:
        registry: Mapping[str, object] = getattr(import_module(f"sharetune.{module}"), attribute)
        return {name: summary(entry) for name, entry in registry.items()}

    return entries


def _presets() -> dict[str, str]:
    from sharetune.spaces.plan import preset_text, presets

    return {name: preset_text(name).split("\n")[0].removeprefix("# ") for name in presets()}


def _objectives() -> dict[str, str]:
    from sharetune.spaces.objectives import OBJECTIVES

    return {o.name: f"{o.direction} {o.title}, {o.source}" for o in OBJECTIVES.values()}


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "forms": _registered("spaces.forms", "FORMS"),
    "assignments": _registered("spaces.assignments", "ASSIGNMENTS"),
    "inits": _registered("spaces.inits", "INITS"),
    "units": _registered("spaces.units", "UNITS"),
    "presets": _presets,
    "anchors": _registered("spaces.anchors", "ANCHORS"),
    "objectives": _objectives,
    "samplers": _registered("search.samplers.base", "SAMPLERS"),
    "tasks": _registered("trainers.tasks.base", "TASKS"),
    "losses": _registered("trainers.training.losses", "LOSSES"),
    "learning-rate-rules": _registered("spaces.learning_rates", "LR_RULES"),
    "schedules": _registered("spaces.softening", "SOFTENINGS"),
    "adversaries": _registered("spaces.adversaries", "ADVERSARIES"),
    "distillations": _registered("trainers.training.distillation", "TEACHINGS"),
    "distillation-schedules": _registered("spaces.distillation", "FADINGS"),
    "alterations": _registered("trainers.data.text_augmentation", "ALTERATIONS"),
    "picture-alterations": _registered("trainers.data.picture_augmentation", "PICTURE_ALTERATIONS"),
    "compressions": _registered("spaces.compression", "COMPRESSIONS"),
    "trackers": _registered("trainers.training.tracking", "TRACKERS"),
    "exports": _registered("trainers.exports.base", "EXPORTS"),
}


def listing(kind: str | None) -> str:
    """Names and one line each of everything of `kind`, or of all kinds.

    Raises :class:`ConfigError` for an unknown kind.
    """
    if kind is None:
        return "\n\n".join(f"{name}\n{_indented(_section(name))}" for name in KINDS)
    if kind not in KINDS:
        raise ConfigError(f"unknown kind: {kind!r}", did_you_mean(kind, list(KINDS)))
    return _section(kind)


def _section(kind: str) -> str:
    entries = KINDS[kind]()
    width = max(map(len, entries))
    return "\n".join(f"{name:{width}}  {text}" for name, text in entries.items())


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))
