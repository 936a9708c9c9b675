"""Show a run and a trial in a notebook: figure, drawing and table, each one piece of HTML."""

import json
from html import escape
from math import isnan
from uuid import uuid4

import plotly.io

from sharetune.results.formatting import quantity, short_title
from sharetune.results.judging.choices import choices
from sharetune.results.judging.front import comparable
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.page.figures import Drawing, draw_figures
from sharetune.results.page.hover import hover_text
from sharetune.results.page.plan_drawing import draw_layers
from sharetune.results.page.plotly_bundles import flat_bundle
from sharetune.results.reading.stored_plans import stored_plan
from sharetune.results.reading.study import StudyRecord
from sharetune.results.terminal import front_table
from sharetune.spaces.layer_map import layer_map
from sharetune.spaces.objectives import PARAMETERS

HEIGHT = 380
"""Pixels of a figure's height."""


def run_text(study: StudyRecord) -> str:
    """Write a run's front as text."""
    return f"{study.name}, in {study.path}\n{front_table(study.path)}"


def run_html(study: StudyRecord, chosen: int | None) -> str:
    """Show the front as an interactive figure, likely choices, and the plan of trial `chosen`."""
    parts = [f"<p><b>{escape(study.name)}</b>, {len(study.frame)} trials</p>"]
    drawings = [] if comparable(study.frame).empty else draw_figures(study)
    parts += [_figure(study, drawings[0])] if drawings else ["<p>no completed trial yet</p>"]
    parts += [_choices(study)] if drawings else []
    row = next((row for row in rows_of(study.frame) if row.number == chosen), None)
    parts += [] if row is None else [trial_html(study, row)]
    return f"<div>{''.join(parts)}</div>"


def trial_text(study: StudyRecord, row: Row) -> str:
    """Write a trial's numbers and plan in one line."""
    return f"trial {row.number}: {_numbers(study, row)}: {row.plan}"


def trial_html(study: StudyRecord, row: Row) -> str:
    """Show a trial's numbers, its plan in words and as a drawing."""
    name = f", {row.anchor}" if row.anchor else ""
    head = f"<b>trial {row.number}{escape(name)}</b>: {escape(_numbers(study, row))}"
    plan = stored_plan(row.candidate)
    stacks = study.model.get("stacks") or {}
    drawing = draw_layers(layer_map(plan, stacks)) if plan is not None and stacks else ""
    unchanged = "".join(f"<p>{escape(text)}</p>" for text in study.unchanged)
    return f"<p>{head}<br>{escape(row.plan)}</p>{drawing}{unchanged}"


def _numbers(study: StudyRecord, row: Row) -> str:
    wanted = dict.fromkeys([*study.objectives, PARAMETERS])
    known = {o: value for o in wanted if not isnan(value := row.value(o))}
    return ", ".join(f"{short_title(o)} {quantity(o, value)}" for o, value in known.items())


def _choices(study: StudyRecord) -> str:
    rows = "".join(
        f"<tr><td>{escape(c.rule)}</td><td>{c.number}</td><td>{escape(c.quality)}</td>"
        f"<td>{escape(c.parameters)}</td><td>{escape(c.plan)}</td></tr>"
        for c in choices(study)
    )
    head = "".join(
        f"<th>{escape(text)}</th>"
        for text in ("choice", "trial", short_title(study.quality), "parameters", "plan")
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _figure(study: StudyRecord, drawing: Drawing) -> str:
    """Return the figure as HTML that draws itself, once its script is there, without a network."""
    figure = drawing.figure
    figure.update_layout(height=HEIGHT, title={"text": drawing.title, "font": {"size": 14}})
    figure.update_layout(margin={"l": 64, "r": 16, "t": 64, "b": 48})
    texts = {row.number: hover_text(study, row) for row in rows_of(study.frame)}
    for trace in figure.data:
        numbers = trace.customdata
        if numbers is not None:
            trace.update(hovertext=[texts[int(number)] for number in numbers])
    place = f"sharetune-{uuid4().hex}"
    spec = json.loads(plotly.io.to_json(figure))
    drawn = json.dumps([spec["data"], spec["layout"], {"displaylogo": False, "responsive": True}])
    drawn = drawn.replace("</", "<\\/")
    return (
        f'<div id="{place}" style="height:{HEIGHT}px"></div>'
        f"<script>if(!window.Plotly){{{flat_bundle()}}}</script>"
        f"<script>Plotly.newPlot('{place}', ...{drawn})</script>"
    )
