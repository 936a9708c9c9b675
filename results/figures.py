"""Plotly figures of a study: the front in two objectives, and hypervolume over trials.

Colours are readable on light and on dark paper; the page sets the colours of text and grid.
"""

from dataclasses import dataclass
from html import escape
from math import isfinite
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from results.front import comparable, hypervolume_over_trials, pareto_front
from results.numbers import THIN, is_fraction, quantity, short_title
from results.study import StudyRecord, records
from spaces.objectives import OBJECTIVES, Objective

SYMBOLS = {"unshared": "diamond", "tied": "square", "drop": "triangle-down"}
OTHER_SYMBOL = "hexagon"
LONGEST_PLAN, LONGEST_GROUP = 6, 90
LAYOUT: dict[str, Any] = {
    "template": None,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 64, "r": 16, "t": 12, "b": 48},
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemwidth": 30},
    "hoverlabel": {"align": "left"},
    "hovermode": "closest",
}


@dataclass(frozen=True)
class Drawing:
    """A figure and the words around it. `caption` says how to read it."""

    name: str
    title: str
    caption: str
    figure: go.Figure


@dataclass(frozen=True)
class Look:
    """How a set of points is drawn: `size` in pixels, `opacity` 0..1."""

    name: str
    colour: str
    size: int
    opacity: float = 1.0


OTHER = Look("other trials", "#8b939c", 7, 0.45)
FRONT = Look("on the front", "#2b83ba", 11)
ANCHOR = Look("anchors", "#d1701f", 11)


def draw_figures(study: StudyRecord) -> list[Drawing]:
    """The front of quality against each other objective, and the hypervolume over trials.

    What no trial has is not drawn.
    """
    drawings = [FrontPlot(study, x, study.quality).draw() for x in _x_axes(study)]
    for drawing in drawings[1:]:
        drawing.figure.update_layout(showlegend=False)
    if study.has_reference and not comparable(study.frame, study.objectives).empty:
        drawings.append(draw_hypervolume(study))
    return drawings


def _x_axes(study: StudyRecord) -> list[Objective]:
    wanted = [OBJECTIVES["parameters"], *study.objectives, OBJECTIVES["latency_ms"]]
    rows = comparable(study.frame, [study.quality])
    return [
        axis
        for axis in dict.fromkeys(wanted)
        if axis != study.quality and rows[axis.name].notna().any()
    ]


class FrontPlot:
    """The trained trials by two objectives, with the line that none of them passes."""

    def __init__(self, study: StudyRecord, x: Objective, y: Objective) -> None:
        self.study, self.x, self.y = study, x, y
        extra = [OBJECTIVES["parameters"], OBJECTIVES["latency_ms"]]
        self.hovered = list(dict.fromkeys([*study.objectives, *extra]))

    def draw(self) -> Drawing:
        """The figure: step line, dominated trials, the study's front, anchors."""
        rows = comparable(self.study.frame, [self.x, self.y])
        best = pareto_front(self.study.frame, self.study.objectives)["number"]
        plain = rows[rows["anchor"].isna()]
        on_front = plain["number"].isin(best)
        traces = (
            self._step_line(rows),
            self._points(plain[~on_front], OTHER),
            self._points(plain[on_front], FRONT),
            self._anchors(rows[rows["anchor"].notna()]),
        )
        figure = go.Figure([trace for trace in traces if trace.x])
        figure.update_layout(xaxis=_axis(self.x), yaxis=_axis(self.y), **LAYOUT)
        title = f"{sentence(self.y.title)} against {short_title(self.x)}"
        return Drawing(f"front-{self.x.name}", title, self._caption(len(rows)), figure)

    def _step_line(self, rows: pd.DataFrame) -> go.Scatter:
        front = pareto_front(rows, [self.x, self.y]).sort_values([self.x.name, self.y.name])
        shape = "hv" if self.x.direction == "minimize" else "vh"
        return go.Scatter(
            x=front[self.x.name].tolist(),
            y=front[self.y.name].tolist(),
            name="front line",
            mode="lines",
            line={"shape": shape, "color": FRONT.colour, "width": 1.5},
            hoverinfo="skip",
        )

    def _points(self, rows: pd.DataFrame, look: Look) -> go.Scatter:
        return go.Scatter(
            x=rows[self.x.name].tolist(),
            y=rows[self.y.name].tolist(),
            name=look.name,
            mode="markers",
            marker={"color": look.colour, "size": look.size, "opacity": look.opacity},
            error_x=self._interval(rows, look),
            customdata=rows["number"].tolist(),
            hoverinfo="text",
            hovertext=[self.hover(row) for row in records(rows)],
        )

    def _anchors(self, rows: pd.DataFrame) -> go.Scatter:
        names = [str(name) for name in rows["anchor"]]
        symbols = [SYMBOLS.get(name.split("-")[0], OTHER_SYMBOL) for name in names]
        return self._points(rows, ANCHOR).update(
            mode="markers+text",
            text=[_safe(name) for name in names],
            textposition="top center",
            cliponaxis=False,
            marker={"symbol": symbols},
        )

    def _interval(self, rows: pd.DataFrame, look: Look) -> dict[str, Any] | None:
        if self.x.name != "latency_ms":
            return None
        return {
            "type": "data",
            "symmetric": False,
            "array": (rows["latency_high_ms"] - rows[self.x.name]).tolist(),
            "arrayminus": (rows[self.x.name] - rows["latency_low_ms"]).tolist(),
            "color": look.colour,
            "thickness": 1.2,
            "width": 3,
        }

    def hover(self, row: dict[str, Any]) -> str:
        """What a point says when it is pointed at: its plan and its numbers, as safe text."""
        anchor = f", {_safe(row['anchor'])}" if isinstance(row["anchor"], str) else ""
        plan = row["plan"] if isinstance(row["plan"], str) else "no plan stored"
        numbers = [
            f"{_safe(short_title(objective))}: {quantity(objective, row[objective.name])}"
            for objective in self.hovered
            if isfinite(row[objective.name])
        ]
        return "<br>".join([f"<b>trial {row['number']}{anchor}</b>", *_wrapped(plan), *numbers])

    def _caption(self, count: int) -> str:
        up = "Higher" if self.y.direction == "maximize" else "Lower"
        side = "left" if self.x.direction == "minimize" else "right"
        text = f"{up} and further {side} is better. {count:,} trained trials."
        return text + self._latency_note() if self.x.name == "latency_ms" else text

    def _latency_note(self) -> str:
        conditions = conditions_text(self.study.frame)
        measured = f" Measured with {conditions}." if conditions else ""
        return f" Bars are 95{THIN}% intervals.{measured}"


def draw_hypervolume(study: StudyRecord) -> Drawing:
    """The share of the box up to the reference point that is covered after each trial."""
    history = hypervolume_over_trials(study.frame, study.objectives, study.reference)
    texts = [
        f"after {trained} trained trials (trial {number})<br>hypervolume {value:.3f}"
        for trained, number, value in history.itertuples(index=False)
    ]
    line = go.Scatter(
        x=history["trained"].tolist(),
        y=history["hypervolume"].tolist(),
        mode="lines" if len(history) > 1 else "markers",
        line={"shape": "hv", "color": FRONT.colour, "width": 2.5},
        hoverinfo="text",
        hovertext=texts,
        showlegend=False,
    )
    figure = go.Figure(line)
    figure.update_xaxes(title="trained trials", rangemode="tozero")
    figure.update_yaxes(title="hypervolume", tickformat=".3~f")
    figure.update_layout(LAYOUT)
    caption = "Share of the box between the reference point and the ideal that the front covers."
    return Drawing("hypervolume", "Hypervolume over trials", caption, figure)


def conditions_text(frame: pd.DataFrame) -> str:
    """How latency was measured, where all trials agree; else nothing."""
    texts = {
        ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in conditions.items())
        for conditions in frame["latency_conditions"]
        if isinstance(conditions, dict)
    }
    return texts.pop() if len(texts) == 1 else ""


def sentence(text: str) -> str:
    """`text` with a capital letter first and the rest as it is."""
    return text[:1].upper() + text[1:]


def _wrapped(plan: str) -> list[str]:
    """The plan's groups, one a line; of a long plan the first six."""
    groups = plan.split("; ")
    lines = [_safe(_cut(group)) for group in groups[:LONGEST_PLAN]]
    more = len(groups) - LONGEST_PLAN
    return [*lines, f"and {more} more groups"] if more > 0 else lines


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_GROUP else f"{text[:LONGEST_GROUP]}…"


def _safe(text: str) -> str:
    """Text in Plotly's subset of HTML, which knows no entities for quotes."""
    return escape(text, quote=False)


def _axis(objective: Objective) -> dict[str, Any]:
    title = short_title(objective)
    unit = f" ({objective.unit})" if objective.unit and objective.unit not in title else ""
    tickformat = ".1~%" if is_fraction(objective) else ".3~s"
    return {"title": {"text": _safe(f"{title}{unit}")}, "tickformat": tickformat}
