"""Tables for the terminal: what is registered, and the front of a run."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from spaces.registry import Registry, summary

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
        from spaces.plan import SharingPlan, presets

        return {name: str(SharingPlan.preset(name)) for name in presets()}
    if kind == "objectives":
        from spaces.objectives import OBJECTIVES

        return {o.name: f"{o.direction} {o.title}, {o.source}" for o in OBJECTIVES.values()}
    return {name: summary(entry) for name, entry in _registry(kind).items()}


def _registry(kind: str) -> Registry[object]:
    """The registry of a kind; tasks, losses and exports load torch."""
    from spaces import adversaries, anchors, assignments, forms, inits

    if kind == "samplers":
        from search import guide
        from search.samplers import SAMPLERS

        assert guide, "importing a sampler's file registers it"

        return SAMPLERS  # type: ignore[return-value]
    if kind == "tasks":
        from trainers.tasks import tasks

        return tasks()  # type: ignore[return-value]
    if kind == "exports":
        from trainers.exports import formats

        return formats()  # type: ignore[return-value]
    if kind == "losses":
        from trainers.losses import LOSSES

        return LOSSES  # type: ignore[return-value]
    if kind == "distillations":
        from trainers.distillation import TEACHINGS

        return TEACHINGS  # type: ignore[return-value]
    if kind == "alterations":
        from trainers.augmentation import ALTERATIONS

        return ALTERATIONS  # type: ignore[return-value]
    if kind == "picture-alterations":
        from trainers.pictures import PICTURE_ALTERATIONS

        return PICTURE_ALTERATIONS  # type: ignore[return-value]
    if kind == "trackers":
        from trainers.tracking import TRACKERS

        return TRACKERS  # type: ignore[return-value]
    if kind == "schedules":
        from trainers.schedules import SCHEDULES

        return SCHEDULES  # type: ignore[return-value]
    light: dict[str, Registry[object]] = {
        "forms": forms.FORMS,  # type: ignore[dict-item]
        "assignments": assignments.ASSIGNMENTS,  # type: ignore[dict-item]
        "adversaries": adversaries.ADVERSARIES,  # type: ignore[dict-item]
        "inits": inits.INITS,  # type: ignore[dict-item]
        "anchors": anchors.ANCHORS,  # type: ignore[dict-item]
    }
    return light[kind]


def front_table(run: Path) -> str:
    """The Pareto front of a run as a table, best first, with 95 % intervals.

    Of a run with final numbers all finalists, those on the front first, and where each stands.
    """
    from results.choices import how_sure
    from results.finals import final_study, has_finals, standing_of
    from results.front import comparable, pareto_front
    from results.numbers import quantity
    from results.seeds import spreads
    from results.study import read_study, records

    study = read_study(run)
    final = final_study(study)
    rows = (
        comparable(final.frame)
        if has_finals(final)
        else pareto_front(final.frame, final.objectives)
    )
    if rows.empty:
        return "no completed trial"
    table = Table(box=None, pad_edge=False)
    table.add_column("trial", justify="right")
    for objective in study.objectives:
        table.add_column(objective.title, justify="right")
    table.add_column("95 % interval")
    if has_finals(final):
        table.add_column("where it stands")
    table.add_column("plan")
    first = study.objectives[0]
    over_seeds = spreads(study.frame, study.quality)
    ordered = rows.sort_values(first.name, ascending=first.direction == "minimize")
    for row in sorted(records(ordered), key=_off_the_front):
        numbers = [quantity(objective, row[objective.name]) for objective in study.objectives]
        sure = how_sure(study.quality, row, over_seeds.get(row["number"]))
        stands = [str(standing_of(row))] if has_finals(final) else []
        plan = row["anchor"] or row["plan"]
        table.add_row(str(row["number"]), *numbers, sure, *stands, plan)
    console = Console(width=140, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def _off_the_front(row: dict[str, Any]) -> int:
    """0 for what is on the front, then by how sure it is not to be."""
    from results.finals import ON_FRONT, ORDER

    return ORDER.index(row.get("standing") or ON_FRONT)


def next_steps(run: Path, resume: str) -> dict[str, str]:
    """What may follow a search, by what it is for; `resume` is the command that continues it."""
    from results.cards import delivery
    from results.finals import retrainings
    from results.review import opened_first
    from results.study import read_study
    from results.summary import Counts

    study = read_study(run)
    first = opened_first(study)
    export = "" if first is None else delivery(study, first).export
    seeds = "" if retrainings(study.frame) else f"{resume} --set finalists.seeds=3"
    asked = (study.config.get("budget") or {}).get("trials", 0)
    twice = 2 * max(asked, Counts.of(study.frame).trained)
    steps = {
        "export": export,
        "how sure": seeds,
        "search on": f"{resume} --set budget.trials={twice}",
    }
    return {what: command for what, command in steps.items() if command}
