"""The report: one HTML file that opens offline and shows a study's trade-off."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from results.cards import draw_cards
from results.figures import Drawing, draw_figures
from results.study import StudyRecord, read_study
from results.summary import Counts, names, reference_text, summarise, tiles
from results.table import columns, mishaps, rows

REPORT = "report.html"
TEMPLATE = "report.html.j2"


def write_report(run: Path | str) -> Path:
    """Writes ``report.html`` into the run folder, in one step, and returns its path.

    The file is complete in itself: it asks nothing of the network. All texts of the study are
    shown as text, whatever they contain.

    Raises:
        RunError: if `run` holds no study, or one that cannot be read.
    """
    study = read_study(run)
    page = render(study)
    path = study.path / REPORT
    draft = path.with_name(f".{REPORT}.{os.getpid()}")
    draft.write_text(page, encoding="utf-8")
    return draft.replace(path)


def render(study: StudyRecord) -> str:
    """The page of a study as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(_content(study))


def _content(study: StudyRecord) -> dict[str, Any]:
    drawings = draw_figures(study)
    shown = columns(study)
    cards = draw_cards(study)
    return {
        "study": study,
        "objectives": names(study.objectives),
        "counts": Counts.of(study.frame),
        "tiles": tiles(study),
        "summary": summarise(study),
        "drawings": drawings,
        "figures_json": figures_json(drawings),
        "plotly_js": Markup(get_plotlyjs()),
        "cards": cards,
        "on_front": {card.number for card in cards},
        "columns": shown,
        "rows": rows(study, shown),
        "mishaps": mishaps(study.frame),
        "circumstances": circumstances(study),
        "config": yaml.safe_dump(study.config, sort_keys=False) if study.config else "",
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def figures_json(drawings: list[Drawing]) -> Markup:
    """The figures by name as JSON that is safe inside a script element."""
    entries = (f"{json.dumps(d.name)}:{d.figure.to_json()}" for d in drawings)
    text = f"{{{','.join(entries)}}}"
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def circumstances(study: StudyRecord) -> dict[str, str]:
    """Under which circumstances the study ran, by what they are."""
    stated = {
        "model": study.model.get("name", ""),
        "labels": study.model.get("labels", []),
        "objectives": names(study.objectives),
        "reference point": reference_text(study) if study.has_reference else "",
        **study.circumstances,
    }
    return {key: text for key, value in stated.items() if (text := _plain(value))}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
