"""Draw quality against searched values: ratio, range, form, and recipe settings that varied."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from sharetune.results.formatting import setting
from sharetune.results.judging.front import comparable, pareto_front
from sharetune.results.judging.searched import ABSENT, is_numeric, layer_ranges, searched
from sharetune.results.page.figures import (
    ANCHOR_LOOK,
    DOMINATED_LOOK,
    FRONT_LOOK,
    LAYOUT,
    Drawing,
    Look,
    axis_of,
    safe,
    sentence,
)
from sharetune.results.reading.study import StudyRecord

FEW_VALUES = 6
"""Distinct numbers up to which each has a column of points of its own."""

MOST_SETTINGS = 6
"""Figures of recipe settings; the table of all trials shows the others."""

JITTER = 0.28
"""Largest distance of a point from its column's middle, in columns."""

JITTER_STEP = 0.618034
"""Step, in columns modulo 1, that spreads consecutive points most evenly: the golden ratio."""

LOG_FROM_RATIO = 50.0
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""

DRAWN_FIRST = ("effective ratio", "form")
"""Values drawn before all others."""

NOT_SETTINGS = {"first layer", "last layer", "layers", "parts", "banks", "init", "units"}
"""Searched values without a figure of their own: they belong to the plan."""


def draw_effects(study: StudyRecord) -> list[Drawing]:
    """Draw a figure for each of ratio, range and form that varies, then up to six settings."""
    table = searched(study.frame)
    rows = comparable(study.frame, [study.quality]).set_index("number", drop=False)
    table = table.loc[table.index.intersection(rows.index)] if len(table) else table
    names = [name for name in DRAWN_FIRST if name in table]
    settings = [name for name in table if name not in NOT_SETTINGS and name not in names]
    effects = Effects(study, rows)
    drawings = [effects.draw(str(name), table[name]) for name in names]
    if {"first layer", "last layer"} & set(table):
        drawings.insert(1, effects.draw_ranges(layer_ranges(study.frame)))
    return drawings + [effects.draw(str(n), table[n]) for n in settings[:MOST_SETTINGS]]


class Effects:
    """Quality against one searched value at a time."""

    def __init__(self, study: StudyRecord, rows: pd.DataFrame) -> None:
        self.study, self.rows, self.quality = study, rows, study.quality
        self.front = set(pareto_front(study.frame, study.objectives)["number"])

    def draw(self, name: str, values: pd.Series) -> Drawing:
        """Draw quality against a number, or in columns of points for names and few numbers."""
        if is_numeric(values) and values.nunique() > FEW_VALUES:
            positions = values.astype(float)
            axis: dict[str, Any] = {"title": {"text": safe(name)}, "exponentformat": "e"}
            if 0 < LOG_FROM_RATIO * positions.min() < positions.max():
                axis["type"] = "log"
        else:
            positions, axis = _columns(values, name)
        traces = [self._points(positions.loc[part], look) for part, look in self._parts(positions)]
        return self._drawing(name, [t for t in traces if t.x], axis)

    def draw_ranges(self, ranges: pd.DataFrame) -> Drawing:
        """Draw each trial as a line from its first to its last shared layer, at its quality."""
        traces = [
            self._lines(ranges.loc[part], look)
            for part, look in self._parts(ranges.loc[ranges.index.intersection(self.rows.index)])
        ]
        axis = {"title": {"text": "shared layers, from the first to the last"}, "dtick": 1}
        return self._drawing("range", [trace for trace in traces if trace.x], axis)

    def _parts(self, data: pd.Series | pd.DataFrame) -> list[tuple[pd.Index, Look]]:
        anchor = set(self.rows.index[self.rows["anchor"].notna()])
        index = data.index
        on_front = index.isin(self.front)
        return [
            (index[~on_front & ~index.isin(anchor)], DOMINATED_LOOK),
            (index[on_front & ~index.isin(anchor)], FRONT_LOOK),
            (index[index.isin(anchor)], ANCHOR_LOOK),
        ]

    def _points(self, positions: pd.Series, look: Look) -> go.Scatter:
        rows = self.rows.loc[positions.index]
        return go.Scatter(
            x=positions.tolist(),
            y=rows[self.quality.name].tolist(),
            name=look.name,
            mode="markers",
            marker={"color": look.colour, "size": min(look.size, 8), "opacity": look.opacity},
            customdata=[int(number) for number in positions.index],
            hoverinfo="text",
        )

    def _lines(self, ranges: pd.DataFrame, look: Look) -> go.Scatter:
        rows = self.rows.loc[ranges.index]
        ends = zip(ranges["first"], ranges["last"], rows[self.quality.name], strict=True)
        triples = [((a, b, None), (y, y, None)) for a, b, y in ends]
        return go.Scatter(
            x=[x for xs, _ in triples for x in xs],
            y=[y for _, ys in triples for y in ys],
            name=look.name,
            mode="lines+markers",
            line={"color": look.colour, "width": 1.5},
            marker={"size": 5, "color": look.colour},
            opacity=look.opacity,
            customdata=[int(number) for number in ranges.index for _ in range(3)],
            hoverinfo="text",
        )

    def _drawing(self, name: str, traces: list[go.Scatter], axis: Mapping[str, object]) -> Drawing:
        figure = go.Figure(traces)
        figure.update_layout(xaxis=axis, yaxis=axis_of(self.quality), showlegend=False, **LAYOUT)
        title = f"{sentence(self.quality.title)} against {name}"
        return Drawing(f"effect-{name.replace(' ', '-')}", title, "", figure)


def _columns(values: pd.Series, name: str) -> tuple[pd.Series, dict[str, Any]]:
    """Return positions with a column for each distinct value, spread sideways, and their axis."""
    numeric = is_numeric(values)
    distinct = sorted(values.unique()) if numeric else sorted({_name(v) for v in values})
    places = {value: place for place, value in enumerate(distinct)}
    own = [places[value if numeric else _name(value)] for value in values]
    spread = [JITTER * (2 * ((i * JITTER_STEP) % 1) - 1) for i in range(len(own))]
    positions = pd.Series(
        [place + aside for place, aside in zip(own, spread, strict=True)], index=values.index
    )
    texts = [setting(float(value)) if numeric else str(value) for value in distinct]
    axis = {
        "title": {"text": safe(name)},
        "tickvals": list(range(len(distinct))),
        "ticktext": [safe(text if len(text) <= 24 else f"{text[:24]}…") for text in texts],
    }
    return positions, axis


def _name(value: object) -> str:
    return ABSENT if value is None or value != value else str(value)
