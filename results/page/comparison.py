"""Compare several studies: overlaid fronts, hypervolumes, matched candidates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from sharetune.results.formatting import difference, plural, quantity, short_title
from sharetune.results.judging.examples import differ
from sharetune.results.judging.front import comparable, hypervolume, pareto_front
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.judging.summary import Counts, objectives_text
from sharetune.results.page.figures import LAYOUT, Drawing, axis_of, safe, sentence, x_axes
from sharetune.results.page.hover import hover_text
from sharetune.results.page.report import environment, now, scripts, write_page
from sharetune.results.reading.privacy import published
from sharetune.results.reading.study import StudyRecord, one_run, read_study
from sharetune.spaces.errors import RunError
from sharetune.spaces.objectives import Objective

COMPARISON = "comparison.html"
"""File that the comparison is written to, in the first run folder."""

COMPARISON_TEMPLATE = "compare.html.j2"
"""Template of the page."""

STUDY_COLOURS = ("#2b83ba", "#d1701f", "#2a9d6f", "#b65f9e", "#7a6a12", "#5b6570")
"""A study's colour, in order; the symbol tells studies apart without it."""

STUDY_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
"""A study's symbol, in order."""


SPLITS = ("train", "validation", "test")
"""Keys of a study's task that name data."""


@dataclass(frozen=True)
class Contender:
    """One compared study in numbers.

    `hypervolume` (0..1) is against the reference common to all, `gain` its difference from the
    first study's.
    """

    name: str
    run: str
    counts: str
    front: int
    hypervolume: float
    gain: float


@dataclass(frozen=True)
class Match:
    """A candidate that both the first and a later study trained.

    `same` says whether the two qualities' intervals overlap; empty where there are no intervals.
    """

    plan: str
    first: int
    other: int
    study: str
    qualities: tuple[str, str]
    change: str
    same: str


def write_comparison(runs: Sequence[Path], *, private: bool = False) -> Path:
    """Write ``comparison.html`` into the first run folder and return its path.

    It names hosts and folders of absolute paths only if `private`.

    Raises:
        RunError: if a run cannot be read, or the studies differ in their objectives.
    """
    with one_run(*runs):
        studies = read_studies(runs)
        page = _page(studies if private else [published(study) for study in studies])
        return write_page(runs[0] / COMPARISON, page)


def _page(studies: Sequence[StudyRecord]) -> str:
    drawings = draw_overlays(studies)
    template = environment().get_template(COMPARISON_TEMPLATE)
    return template.render(
        title=" and ".join(labels(studies)),
        live="",
        written=now(),
        objectives=objectives_text(studies[0].objectives),
        contenders=contenders(studies),
        reference=_reference_text(studies),
        matches=matches(studies),
        drawings=drawings,
        **scripts(drawings, EMPTY_REVIEW, {}),
    )


EMPTY_REVIEW: dict[str, Any] = {
    "trials": [],
    "limits": [],
    "front": [],
    "first": None,
    "quality": {"name": "", "maximize": True, "view": None},
}
"""Data for the page's script, which opens no trials here."""


def comparison_table(runs: Sequence[Path]) -> str:
    """Write the compared studies as lines of text. Raises as :func:`write_comparison`."""
    with one_run(*runs):
        return "\n".join(
            f"{c.name}: hypervolume {c.hypervolume:.4f} ({c.gain:+.4f}), {c.front} on the front, "
            f"{c.counts}"
            for c in contenders(read_studies(runs))
        )


def read_studies(runs: Sequence[Path]) -> list[StudyRecord]:
    """Read the studies of run folders.

    Raises :class:`RunError` if a run is given twice, or if the studies differ in their objectives,
    task, model or data.
    """
    places = [run.resolve() for run in runs]
    twice = next((run for i, run in enumerate(places) if run in places[:i]), None)
    if twice is not None:
        raise RunError(f"{twice} cannot be compared with itself", "name two runs or more")
    studies = [read_study(run) for run in runs]
    for study in studies[1:]:
        _refuse_another_kind(studies[0], study)
    wanted = [objective.name for objective in studies[0].objectives]
    for study in studies[1:]:
        found = [objective.name for objective in study.objectives]
        if found != wanted:
            raise RunError(
                f"compared studies must have the same objectives, but {studies[0].path} has "
                f"{', '.join(wanted)} and {study.path} has {', '.join(found)}",
                "compare runs of the same model, task and objectives",
            )
    return studies


def _refuse_another_kind(first: StudyRecord, other: StudyRecord) -> None:
    """Raise :class:`RunError` if the studies are known to be of two tasks, models or data sets."""
    for what in ("task", "model", "data"):
        one, two = _kind(first, other, what), _kind(other, first, what)
        if one and two and one != two:
            raise RunError(
                f"compared studies must have the same {what}, but {first.path} has {one} and "
                f"{other.path} has {two}",
                "compare runs of the same model, task and objectives",
            )


def _kind(study: StudyRecord, other: StudyRecord, what: str) -> str:
    """Describe the task, model or data of a study so that it differs from another's of `other`.

    Models and data are told apart by their digests where both studies have them, else by their
    files' names; paths differ between machines. Empty where the study does not say.
    """
    task = study.config.get("task") or {}
    if what == "task":
        return str(task.get("name") or "")
    digests = ("checkpoint",) if what == "model" else ("trained on", "measured on")
    sources = [study.model.get("name")] if what == "model" else [task.get(s) for s in SPLITS]
    names = [Path(source).name for source in sources if isinstance(source, str)]
    if not all(each in study.identity and each in other.identity for each in digests):
        rows = [f"{count} {split}" for split, count in study.rows.items()] if names else []
        return ", ".join([*names, *(rows if what == "data" else [])])
    return f"{', '.join(names)} ({' '.join(study.identity[each] for each in digests)})"


def labels(studies: Sequence[StudyRecord]) -> list[str]:
    """Return the studies' names; with their folders where two are the same."""
    found = [study.name for study in studies]
    if len(set(found)) == len(found):
        return found
    return [f"{study.name} ({study.path.resolve().name})" for study in studies]


def common_reference(studies: Sequence[StudyRecord]) -> dict[str, float]:
    """Return the worst reference value of all studies, by objective; empty if one has none.

    The worst is taken so that nothing that counts in one study is cut off.
    """
    if not all(study.has_reference for study in studies):
        return {}
    return {
        o.name: (min if o.direction == "maximize" else max)(
            study.reference[o.name] for study in studies
        )
        for o in studies[0].objectives
    }


def contenders(studies: Sequence[StudyRecord]) -> list[Contender]:
    """Measure each study against the common reference; its hypervolume is NaN without one."""
    reference = common_reference(studies)
    shares = [
        hypervolume(study.frame, study.objectives, reference) if reference else float("nan")
        for study in studies
    ]
    return [
        Contender(
            name=name,
            run=study.folder,
            counts=str(Counts.of(study.frame)),
            front=len(pareto_front(study.frame, study.objectives)),
            hypervolume=share,
            gain=share - shares[0],
        )
        for study, name, share in zip(studies, labels(studies), shares, strict=True)
    ]


def matches(studies: Sequence[StudyRecord]) -> list[Match]:
    """List candidates (plan, compression, recipe) that the first and a later study both trained."""
    first, *others = studies
    known = {_key(trial): trial for trial in _trained(first)}
    found = []
    for study, name in zip(others, labels(studies)[1:], strict=True):
        for trial in _trained(study):
            twin = known.get(_key(trial))
            if twin is not None:
                found.append(_match(first.quality, name, twin, trial))
    return found


def _trained(study: StudyRecord) -> list[Row]:
    rows = rows_of(comparable(study.frame, [study.quality]))
    return [trial for trial in rows if trial.candidate]


def _key(trial: Row) -> str:
    return json.dumps(trial.candidate, sort_keys=True)


def _match(quality: Objective, name: str, first: Row, other: Row) -> Match:
    before, after = first.value(quality), other.value(quality)
    return Match(
        plan=first.title,
        first=first.number,
        other=other.number,
        study=name,
        qualities=(quantity(quality, before), quantity(quality, after)),
        change=difference(quality, after, before),
        same=_overlap(quality, first, other),
    )


def _overlap(quality: Objective, first: Row, other: Row) -> str:
    beyond = differ(first, other, quality)
    if beyond is None:
        return ""
    return "beyond the intervals" if beyond else "within the intervals"


def _reference_text(studies: Sequence[StudyRecord]) -> str:
    reference = common_reference(studies)
    return ", ".join(
        f"{short_title(o)} {quantity(o, reference[o.name])}"
        for o in studies[0].objectives
        if o.name in reference
    )


def draw_overlays(studies: Sequence[StudyRecord]) -> list[Drawing]:
    """Draw quality against each objective that all studies have, their fronts in one figure."""
    shared = [x for x in x_axes(studies[0]) if all(x in x_axes(s) for s in studies)]
    return [_overlay(studies, x) for x in shared]


def _overlay(studies: Sequence[StudyRecord], x: Objective) -> Drawing:
    quality = studies[0].quality
    figure = go.Figure()
    for i, (study, name) in enumerate(zip(studies, labels(studies), strict=True)):
        figure.add_traces(_traces(study, name, x, i))
    figure.update_layout(xaxis=axis_of(x), yaxis=axis_of(quality), **LAYOUT)
    title = f"{sentence(quality.title)} against {short_title(x)}"
    total = sum(len(comparable(study.frame, [x, quality])) for study in studies)
    caption = (
        f"Lines are the fronts, faint marks the dominated of {plural(total, 'trained trial')}."
    )
    return Drawing(f"overlay-{x.name}", title, caption, figure)


def _traces(study: StudyRecord, name: str, x: Objective, number: int) -> list[go.Scatter]:
    quality, colour = study.quality, STUDY_COLOURS[number % len(STUDY_COLOURS)]
    symbol = STUDY_SYMBOLS[number % len(STUDY_SYMBOLS)]
    rows = comparable(study.frame, [x, quality])
    front = pareto_front(rows, [x, quality]).sort_values([x.name, quality.name])
    rest = rows[~rows["number"].isin(front["number"])]
    shape = "hv" if x.direction == "minimize" else "vh"
    common = {"hoverinfo": "text", "legendgroup": str(number)}
    texts = [
        [f"<b>{safe(name)}</b><br>{hover_text(study, row)}" for row in rows_of(part)]
        for part in (rest, front)
    ]
    return [
        go.Scatter(
            x=rest[x.name].tolist(),
            y=rest[quality.name].tolist(),
            mode="markers",
            marker={"color": colour, "size": 7, "opacity": 0.3, "symbol": symbol},
            showlegend=False,
            hovertext=texts[0],
            **common,
        ),
        go.Scatter(
            x=front[x.name].tolist(),
            y=front[quality.name].tolist(),
            name=safe(name),
            mode="lines+markers",
            line={"shape": shape, "color": colour, "width": 2},
            marker={"color": colour, "size": 9, "symbol": symbol},
            hovertext=texts[1],
            **common,
        ),
    ]
