"""Write the report: one HTML file that opens offline and shows a study's trade-off."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sharetune.results.judging.caveats import caveats
from sharetune.results.judging.choices import choices
from sharetune.results.judging.regime import expectation
from sharetune.results.judging.summary import (
    Counts,
    objectives_text,
    reference_text,
    summarise,
    tiles,
)
from sharetune.results.page.candidate_pages import Card, draw_cards
from sharetune.results.page.effects import draw_effects
from sharetune.results.page.figures import SPACE, Drawing, draw_figures
from sharetune.results.page.finalist_rows import finalists
from sharetune.results.page.importance import draw_importances
from sharetune.results.page.plotly_bundles import deep_bundle, flat_bundle
from sharetune.results.page.review import as_json, packed, review, script_safe
from sharetune.results.page.scores import (
    KINDS,
    draw_predictions,
    heat_maps,
    rival_rows,
    shown_kinds,
)
from sharetune.results.page.trial_rows import columns, mishaps, plain, rows
from sharetune.results.reading.privacy import published
from sharetune.results.reading.scores import stored_scores
from sharetune.results.reading.study import StudyRecord, one_run, read_study
from sharetune.spaces.planning.score_file import StoredScores
from sharetune.spaces.whole_files import write_whole

REPORT = "report.html"
"""File that the report is written to, in the run folder."""

REPORT_TEMPLATE = "report.html.j2"
"""Template of the page."""

CANDIDATE_TEMPLATE = "candidate.html.j2"
"""Template of one trial, which the page's script opens."""


def write_report(run: Path | str, *, private: bool = False) -> Path:
    """Write ``report.html`` into the run folder, in one step, and return its path.

    The file needs no network. It names hosts and folders of absolute paths only if `private`. All
    texts of the study are shown as text, whatever they contain.

    Raises:
        RunError: if `run` holds no study, or one that cannot be read.
    """
    with one_run(run):
        study = read_study(run) if private else published(read_study(run))
        return write_page(study.path / REPORT, render(study))


def write_page(path: Path, page: str) -> Path:
    """Write a page in one step: a reader finds the old one or the new one, never half of it."""
    return write_whole(path, page)


def render(study: StudyRecord, *, live: str = "") -> str:
    """Render the report of a study as HTML.

    With `live`, the study's state as text, the page asks its server for newer states and reloads.
    """
    return environment().get_template(REPORT_TEMPLATE).render(_content(study), live=live)


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the environment of this folder's templates, which escapes every value."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _content(study: StudyRecord) -> dict[str, Any]:
    drawings, effects = draw_figures(study), draw_effects(study)
    important, shares = draw_importances(study)
    shown = columns(study)
    scores = stored_scores(study.path)
    agreement, predictions = draw_predictions(study)
    reviewed = review(study)
    cards = draw_cards(study)
    pages = _pages(cards)
    return {
        "study": study,
        "title": study.name,
        "objectives": objectives_text(study.objectives),
        "counts": Counts.of(study.frame),
        "tiles": tiles(study),
        "summary": summarise(study),
        "expectation": expectation(study),
        "choices": choices(study),
        "finalists": finalists(study),
        "caveats": caveats(study),
        "drawings": drawings,
        "effects": effects,
        "heat_maps": [] if scores is None else heat_maps(scores),
        "agreement": agreement,
        "predictions": predictions,
        **_meetings(study, scores),
        "importance": important,
        "shares": shares,
        "first": Markup(pages.get(reviewed["first"], "")),
        **scripts([*drawings, *effects, *shares, *predictions], reviewed, pages),
        "cards": [card for card in cards if card.on_front],
        "on_front": {card.number for card in cards if card.on_front},
        "columns": shown,
        "rows": rows(study, shown),
        "mishaps": mishaps(study.frame),
        "circumstances": _circumstances(study),
        "config": yaml.safe_dump(study.config, sort_keys=False) if study.config else "",
        "written": now(),
    }


def _meetings(study: StudyRecord, scores: StoredScores | None) -> dict[str, Any]:
    """Return the rows of the front's rivals, and the kinds of those that any row has."""
    rows = [] if scores is None else rival_rows(study, scores)
    shown = shown_kinds(rows)
    kept = [replace(row, rivals=tuple(row.rivals[place] for place in shown)) for row in rows]
    return {"meetings": kept if shown else [], "kinds": [KINDS[place] for place in shown]}


def scripts(
    drawings: Sequence[Drawing], reviewed: Mapping[str, object], pages: dict[int, str]
) -> dict[str, Any]:
    """Return the data that the page's scripts read, and the plotly.js that its figures need."""
    return {
        "figures": {d.name: script_safe(d.figure.to_json() or "") for d in drawings},
        "review_json": as_json(reviewed),
        "details": as_json(packed(pages)),
        "flat_bundle": flat_bundle() if drawings else "",
        "deep_bundle": deep_bundle() if any(d.name == SPACE for d in drawings) else "",
    }


def now() -> str:
    """Write the current time (UTC) as the pages state it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _pages(cards: list[Card]) -> dict[int, str]:
    template = environment().get_template(CANDIDATE_TEMPLATE)
    return {card.number: template.render(card=card) for card in cards}


def _circumstances(study: StudyRecord) -> dict[str, str]:
    """Return the circumstances of the study as texts, by their titles."""
    stated = {
        "model": study.model.get("name", ""),
        "labels": study.model.get("labels", []),
        "objectives": objectives_text(study.objectives),
        "reference point": reference_text(study) if study.has_reference else "",
        **study.circumstances,
    }
    return {key: text for key, value in stated.items() if (text := plain(value))}
