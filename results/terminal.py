"""Print the front of a run to a terminal, and the commands that may follow a search."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table

from sharetune.results.formatting import quantity
from sharetune.results.judging.choices import how_sure
from sharetune.results.judging.finals import final_study, has_finals, retrainings
from sharetune.results.judging.front import comparable, pareto_front
from sharetune.results.judging.learning import nothing_learned
from sharetune.results.judging.rows import ORDER, Row, rows_of
from sharetune.results.judging.seeds import spreads
from sharetune.results.judging.summary import Counts
from sharetune.results.page.candidate_pages import delivery
from sharetune.results.page.review import opened_first
from sharetune.results.reading.study import StudyRecord, one_run, read_study
from sharetune.results.table_text import table_text
from sharetune.spaces.anchors import ANCHORS, UNSHARED

EXPORT = "to export the model that the report opens with"
"""Purpose of the first command that may follow a search."""

NEAREST = (
    "no smaller model is within a point of the unshared one; to export the one that comes nearest"
)
"""Purpose of that command where the report opens with the unshared model."""

SEEDS = "to train the front again on 3 further seeds, and see how sure its numbers are"
"""Purpose of the second."""

FURTHER = "to search on, up to twice as many trials"
"""Purpose of the third."""

WIDTH = 10_000
"""Columns of a table, so that each row is one line, however long its plan."""


def front_table(run: Path) -> str:
    """Write the Pareto front of a run as a table, best first, with 95 % intervals.

    A run with final numbers shows all its finalists and where each stands, the front first.
    """
    with one_run(run):
        return _front_table(read_study(run))


def _front_table(study: StudyRecord) -> str:
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
    for row in sorted(rows_of(ordered), key=_off_the_front):
        numbers = [quantity(objective, row.value(objective)) for objective in study.objectives]
        sure = how_sure(study.quality, row, over_seeds.get(row.number))
        stands = [str(row.final.standing)] if row.final else []
        table.add_row(str(row.number), *numbers, sure, *stands, named_plan(row))
    return table_text(table, WIDTH)


def named_plan(row: Row) -> str:
    """Return an anchor's name, a given plan's with its words, or else the plan's words."""
    given = row.anchor and row.anchor not in ANCHORS
    return f"{row.anchor}: {row.plan}" if given else row.title


def warning(run: Path) -> str | None:
    """Return the warning of a run whose trainings say nothing; None for any other run."""
    text = nothing_learned(read_study(run))
    return None if text is None else f"warning: {text}"


def _off_the_front(row: Row) -> int:
    """Return the sort key of a row: 0 on the front, 1 off it within the intervals, 2 beyond."""
    return ORDER.index(row.final.standing.word) if row.final else 0


def next_steps(run: Path, resume: Callable[[Sequence[str]], str]) -> dict[str, str]:
    """List commands that may follow a search, by what they do.

    `resume` gives the command that continues it with settings changed, such as `budget.trials=20`.
    Where hours were limited they are doubled, too.
    """
    study = read_study(run)
    first = opened_first(study)
    nearest = _nearest(study, first)
    exported = first if nearest is None else nearest
    export = "" if exported is None else delivery(study, exported).export
    budget = study.config.get("budget") or {}
    hours = budget.get("wall_hours")
    time = [] if hours is None else [f"budget.wall_hours={2 * hours:g}"]
    seeds = "" if retrainings(study.frame) else resume(["finalists.seeds=3", *time])
    twice = 2 * max(budget.get("trials", 0), Counts.of(study.frame).trained)
    steps = {
        EXPORT if nearest is None else NEAREST: export,
        SEEDS: seeds,
        FURTHER: resume([f"budget.trials={twice}", *time]),
    }
    return {what: command for what, command in steps.items() if command}


def _nearest(study: StudyRecord, first: int | None) -> int | None:
    """Return the front's best other trial where the report opens, with `first`, unshared."""
    final = final_study(study)
    rows = pareto_front(final.frame, final.objectives)
    opened = rows[rows["number"] == first]
    others = rows[rows["anchor"] != UNSHARED]
    if opened.empty or others.empty or opened["anchor"].iloc[0] != UNSHARED:
        return None
    quality = final.quality
    ordered = others.sort_values(quality.name, ascending=quality.direction == "minimize")
    return int(ordered["number"].iloc[0])
