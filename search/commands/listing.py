"""List what is registered, by kind."""

from sharetune.spaces.registry import Registry, summary

KINDS = (
    "forms",
    "assignments",
    "inits",
    "presets",
    "anchors",
    "objectives",
    "samplers",
    "tasks",
    "losses",
    "schedules",
    "adversaries",
    "distillations",
    "alterations",
    "picture-alterations",
    "trackers",
    "exports",
)


def listing(kind: str | None) -> str:
    """Names and one line each of everything of `kind`, or of all kinds.

    Raises :class:`ConfigError` for an unknown kind.
    """
    known: Registry[str] = Registry("kind")
    for name in KINDS:
        known.register(name)(name)
    if kind is not None:
        return _section(known[kind])
    return "\n\n".join(f"{name}\n{_indented(_section(name))}" for name in KINDS)


def _section(kind: str) -> str:
    entries = _entries(kind)
    width = max(map(len, entries))
    return "\n".join(f"{name:{width}}  {text}" for name, text in entries.items())


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


def _entries(kind: str) -> dict[str, str]:
    if kind == "presets":
        from sharetune.spaces.plan import SharingPlan, presets

        return {name: str(SharingPlan.preset(name)) for name in presets()}
    if kind == "objectives":
        from sharetune.spaces.objectives import OBJECTIVES

        return {o.name: f"{o.direction} {o.title}, {o.source}" for o in OBJECTIVES.values()}
    return {name: summary(entry) for name, entry in _registry(kind).items()}


def _registry(kind: str) -> Registry[object]:
    """The registry of a kind; tasks, losses and exports load torch."""
    from sharetune.spaces import adversaries, anchors, assignments, forms, inits

    if kind == "samplers":
        from sharetune.search.samplers.base import SAMPLERS

        return SAMPLERS  # type: ignore[return-value]
    if kind == "tasks":
        from sharetune.trainers.tasks.base import TASKS

        return TASKS  # type: ignore[return-value]
    if kind == "exports":
        from sharetune.trainers.exports.base import EXPORTS

        return EXPORTS  # type: ignore[return-value]
    if kind == "losses":
        from sharetune.trainers.training.losses import LOSSES

        return LOSSES  # type: ignore[return-value]
    if kind == "distillations":
        from sharetune.trainers.training.distillation import TEACHINGS

        return TEACHINGS  # type: ignore[return-value]
    if kind == "alterations":
        from sharetune.trainers.data.text_augmentation import ALTERATIONS

        return ALTERATIONS  # type: ignore[return-value]
    if kind == "picture-alterations":
        from sharetune.trainers.data.picture_augmentation import PICTURE_ALTERATIONS

        return PICTURE_ALTERATIONS  # type: ignore[return-value]
    if kind == "trackers":
        from sharetune.trainers.training.tracking import TRACKERS

        return TRACKERS  # type: ignore[return-value]
    if kind == "schedules":
        from sharetune.trainers.models.softening import SCHEDULES

        return SCHEDULES  # type: ignore[return-value]
    light: dict[str, Registry[object]] = {
        "forms": forms.FORMS,  # type: ignore[dict-item]
        "assignments": assignments.ASSIGNMENTS,  # type: ignore[dict-item]
        "adversaries": adversaries.ADVERSARIES,  # type: ignore[dict-item]
        "inits": inits.INITS,  # type: ignore[dict-item]
        "anchors": anchors.ANCHORS,  # type: ignore[dict-item]
    }
    return light[kind]
