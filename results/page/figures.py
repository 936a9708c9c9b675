"""Draw a study with Plotly: the front in two and in three objectives, and the hypervolume.

Colours are readable on light and on dark paper; the page sets the colours of text and grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from sharetune.results.formatting import THIN, is_fraction, short_title
from sharetune.results.judging.cost import (
    SECONDS_PER_HOUR,
    hours_number,
    hours_text,
    hours_unit,
    seconds_of_compute,
)
from sharetune.results.judging.examples import example_interval
from sharetune.results.judging.finals import final_study, has_finals
from sharetune.results.judging.front import comparable, hypervolume_over_trials, pareto_front
from sharetune.results.judging.rows import BEATEN, FINAL, ON_FRONT, OPEN, Row, rows_of
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.objectives import OBJECTIVES, Objective

ANCHOR_SYMBOLS = {"unshared": "diamond", "tied": "square", "drop": "triangle-down"}
"""Plotly's symbol of an anchor, by its name up to the first hyphen."""

OTHER_SYMBOL = "hexagon"
"""Symbol of all other anchors, and of given plans."""

LAYOUT: dict[str, Any] = {
    "template": None,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 64, "r": 16, "t": 12, "b": 48},
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemwidth": 30},
    "hoverlabel": {"align": "left"},
    "hovermode": "closest",
}
"""Layout of every figure."""

FOOT_AXIS: dict[str, Any] = {
    "overlaying": "y",
    "range": [0, 1],
    "visible": False,
    "fixedrange": True,
}
"""A second y-axis (0..1 of the plot's height), for marks along the foot of the plot."""


@dataclass(frozen=True)
class Drawing:
    """A figure with its title and a caption that says how to read it."""

    name: str
    title: str
    caption: str
    figure: go.Figure


@dataclass(frozen=True)
class Look:
    """The style of a set of points: `size` in pixels, `opacity` 0..1."""

    name: str
    colour: str
    size: int
    opacity: float = 1.0


DOMINATED_LOOK = Look("dominated", "#8b939c", 7, 0.45)
"""Style of trials off the front."""

SEARCHED_LOOK = Look("as searched, one seed", "#8b939c", 6, 0.35)
"""Style of trials behind the finalists."""

FRONT_LOOK = Look("on the front", "#2b83ba", 11)
"""Style of trials on the front."""

FINAL_LOOKS = {
    ON_FRONT: (FRONT_LOOK, "circle"),
    OPEN: (Look("dominated within the intervals", "#2b83ba", 11), "circle-open"),
    BEATEN: (Look("dominated beyond the intervals", "#b5473c", 11), "x-thin-open"),
}
"""Style and symbol of finalists, by where they stand."""

ANCHOR_LOOK = Look("anchors", "#d1701f", 11)
"""Style of anchors and given plans."""

PRESET_LOOK = Look("from the literature", "#00876c", 12)
"""Style of presets."""

UNFINISHED = (
    ("PRUNED", Look("pruned", "#8b939c", 9, 0.8), "line-ns-open"),
    ("FAIL", Look("failed", "#b5473c", 8, 0.9), "x-thin-open"),
)
"""State, style and symbol of trials without a result."""

GIVEN_PLAN = "plan-"
"""Start of the anchor name of a plan that the study file gives."""

SPACE = "front-3d"
"""Name of the figure in three dimensions, which needs the larger bundle of plotly.js."""


def draw_figures(study: StudyRecord) -> list[Drawing]:
    """Draw the front in two and in three objectives, and the hypervolume over trials and compute.

    Objectives that no trial has are not drawn.
    """
    axes = x_axes(study)
    final = final_study(study)
    drawings = [FrontPlot(final, x, study.quality, study).draw() for x in axes]
    for drawing in drawings[1:]:
        drawing.figure.update_layout(showlegend=False)
    if len(axes) > 1:
        drawings.append(draw_space(final, axes[0], axes[-1]))
    if study.has_reference and not comparable(study.frame, study.objectives).empty:
        drawings += [draw_hypervolume(study), draw_hypervolume_over_compute(study)]
    return drawings


def x_axes(study: StudyRecord) -> list[Objective]:
    """Return the measured objectives that quality is drawn against.

    They are parameters, the study's other objectives, and latency.
    """
    wanted = [OBJECTIVES["parameters"], *study.objectives, OBJECTIVES["latency_ms"]]
    rows = comparable(study.frame, [study.quality])
    return [
        axis
        for axis in dict.fromkeys(wanted)
        if axis != study.quality and rows[axis.name].notna().any()
    ]


class FrontPlot:
    """The trained trials by two objectives, with their front as a step line.

    Where `study` has final numbers its finalists are drawn by these, over the other trials of the
    study as it was `searched`.
    """

    def __init__(
        self, study: StudyRecord, x: Objective, y: Objective, searched: StudyRecord | None = None
    ) -> None:
        self.study, self.x, self.y = study, x, y
        self.searched = searched or study

    def draw(self) -> Drawing:
        """Draw the figure: step line, dominated trials, the study's front, anchors."""
        rows = comparable(self.study.frame, [self.x, self.y])
        preset = rows["preset"].notna() & ~rows["anchor"].isin(list(ANCHORS))
        anchor = rows["anchor"].notna() & ~preset
        plain = rows[~anchor & ~preset]
        traces = (
            self._step_line(rows),
            *(self._finals(plain) if has_finals(self.study) else self._trials(plain)),
            self._presets(rows[preset]),
            self._anchors(rows[anchor]),
            *self._without_result(),
        )
        figure = go.Figure([trace for trace in traces if trace.x])
        figure.update_layout(
            xaxis=axis_of(self.x), yaxis=axis_of(self.y), yaxis2=FOOT_AXIS, **LAYOUT
        )
        title = f"{sentence(self.y.title)} against {short_title(self.x)}"
        return Drawing(f"front-{self.x.name}", title, self._caption(len(rows)), figure)

    def _trials(self, plain: pd.DataFrame) -> Iterator[go.Scatter]:
        best = pareto_front(self.study.frame, self.study.objectives)["number"]
        on_front = plain["number"].isin(best)
        yield self._points(plain[~on_front], DOMINATED_LOOK)
        yield self._points(plain[on_front], FRONT_LOOK)

    def _finals(self, plain: pd.DataFrame) -> Iterator[go.Scatter]:
        """Yield finalists by their standing; faint: other trials, which do not shape the line."""
        finalists = comparable(self.study.frame)["number"]
        rows = comparable(self.searched.frame, [self.x, self.y])
        behind = self._points(rows[~rows["number"].isin(finalists)], SEARCHED_LOOK)
        yield behind.update(meta={"behind": True}, error_x=None)
        words = plain[FINAL].map(lambda final: final.standing.word)
        for word, (look, symbol) in FINAL_LOOKS.items():
            found = self._points(plain[words == word], look)
            yield found.update(marker={"symbol": symbol, "line": {"width": 2}})

    def _step_line(self, rows: pd.DataFrame) -> go.Scatter:
        front = pareto_front(rows, [self.x, self.y]).sort_values([self.x.name, self.y.name])
        shape = "hv" if self.x.direction == "minimize" else "vh"
        return go.Scatter(
            x=front[self.x.name].tolist(),
            y=front[self.y.name].tolist(),
            name="front line",
            mode="lines",
            line={"shape": shape, "color": FRONT_LOOK.colour, "width": 1.5},
            hoverinfo="skip",
            meta={"signs": [-1 if o.direction == "maximize" else 1 for o in (self.x, self.y)]},
        )

    def _points(self, rows: pd.DataFrame, look: Look) -> go.Scatter:
        return go.Scatter(
            x=rows[self.x.name].tolist(),
            y=rows[self.y.name].tolist(),
            name=look.name,
            mode="markers",
            marker={"color": look.colour, "size": look.size, "opacity": look.opacity},
            error_x=self._interval(rows, look),
            error_y=self._quality_interval(rows, look),
            customdata=rows["number"].tolist(),
            hoverinfo="text",
        )

    def _anchors(self, rows: pd.DataFrame) -> go.Scatter:
        names = [str(name) for name in rows["anchor"]]
        texts = ["" if name.startswith(GIVEN_PLAN) else safe(name) for name in names]
        symbols = [
            f"{ANCHOR_SYMBOLS.get(name.split('-')[0], OTHER_SYMBOL)}{_open(row)}"
            for name, row in zip(names, rows_of(rows), strict=True)
        ]
        return self._labelled(rows, ANCHOR_LOOK, texts, symbols)

    def _presets(self, rows: pd.DataFrame) -> go.Scatter:
        names = [safe(str(name)) for name in rows["preset"]]
        symbols = [f"star{_open(row)}" for row in rows_of(rows)]
        return self._labelled(rows, PRESET_LOOK, names, symbols)

    def _labelled(
        self, rows: pd.DataFrame, look: Look, texts: list[str], symbols: list[str]
    ) -> go.Scatter:
        """Draw points with their names next to them; the page moves names that collide."""
        return self._points(rows, look).update(
            mode="markers+text",
            text=texts,
            textposition="top right",
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
            "color": _faded(look.colour),
            "thickness": 1.2,
            "width": 3,
        }

    def _quality_interval(self, rows: pd.DataFrame, look: Look) -> dict[str, Any] | None:
        if look in (DOMINATED_LOOK, SEARCHED_LOOK):
            return None
        ends = [self._ends(row) for row in rows_of(rows)]
        if not has_finals(self.study) and not any(ends):
            return None
        values = rows[self.y.name].tolist()
        known = [pair or (value, value) for pair, value in zip(ends, values, strict=True)]
        return {
            "type": "data",
            "symmetric": False,
            "array": [high - value for (_, high), value in zip(known, values, strict=True)],
            "arrayminus": [value - low for (low, _), value in zip(known, values, strict=True)],
            "color": _faded(look.colour),
            "thickness": 1.2,
            "width": 0,
        }

    def _ends(self, row: Row) -> tuple[float, float] | None:
        """Return the ends of a trial's interval on the vertical axis; None without one."""
        interval = row.final or example_interval(row, self.y)
        return None if interval is None else (interval.low, interval.high)

    def _without_result(self) -> list[go.Scatter]:
        """Draw pruned and failed trials along the foot of the plot, at their exact objective."""
        return [self._foot(state, look, symbol) for state, look, symbol in UNFINISHED]

    def _foot(self, state: str, look: Look, symbol: str) -> go.Scatter:
        rows = self.study.frame[self.study.frame["state"] == state]
        rows = rows[rows[self.x.name].notna()]
        return go.Scatter(
            x=rows[self.x.name].tolist(),
            y=[0.02] * len(rows),
            yaxis="y2",
            name=look.name,
            mode="markers",
            marker={
                "color": look.colour,
                "size": look.size,
                "opacity": look.opacity,
                "symbol": symbol,
                "line": {"width": 1.6},
            },
            customdata=rows["number"].tolist(),
            hoverinfo="text",
        )

    def _caption(self, count: int) -> str:
        up = "Higher" if self.y.direction == "maximize" else "Lower"
        side = "left" if self.x.direction == "minimize" else "right"
        text = f"{up} and further {side} is better. "
        if has_finals(self.study):
            text += self._finals_note(count)
            return text + self._latency_note() if self.x.name == "latency_ms" else text
        text, on = text + f"{count:,} trained trials.", self.study.selected_on
        found = (example_interval(row, self.y) for row in rows_of(self.study.frame))
        if interval := next(filter(None, found), None):
            by = "by the number of test examples"
            by = by if interval.over == "examples" else f"by the parts of the {on} split"
            text += f" Vertical bars: 95{THIN}% intervals {by}."
        return text + self._latency_note() if self.x.name == "latency_ms" else text

    def _finals_note(self, count: int) -> str:
        return (
            f"{count:,} finalists: means over further seeds on the test split, vertical bars their "
            f"95{THIN}% intervals by Student's t; hollow or crossed ones are off the front. Faint: "
            f"other trials as searched, one seed on the {self.study.selected_on} split."
        )

    def _latency_note(self) -> str:
        conditions = conditions_text(self.study.frame)
        measured = f" Measured: {conditions}." if conditions else ""
        return f" Horizontal bars: 95{THIN}% intervals over the timed rounds.{measured}"


def draw_hypervolume(study: StudyRecord) -> Drawing:
    """Draw the hypervolume (0..1 of the box to the reference point) after each trained trial."""
    history = _steps(study)
    texts = _step_texts(history, [f"{count} trained trials" for count in history["trained"]])
    figure = _growth(history["trained"], history["hypervolume"], texts, "trained trials")
    caption = "Share of the box between the reference point and the ideal that the front covers."
    return Drawing("hypervolume", "Hypervolume over trials", caption, figure)


def draw_hypervolume_over_compute(study: StudyRecord) -> Drawing:
    """Draw the hypervolume over the core or accelerator hours spent until then."""
    history, unit = _steps(study), hours_unit(study)
    texts = _step_texts(history, [f"{hours_number(s)} {unit}" for s in history["seconds"]])
    spent = float(history["seconds"].iloc[-1])
    figure = _growth(
        pd.Series([0.0, *(history["seconds"] / SECONDS_PER_HOUR)]),
        pd.Series([0.0, *history["hypervolume"]]),
        ["before the first trial", *texts],
        f"{unit} in trained trials",
    )
    caption = f"The same share against what it cost: {hours_text(study, spent)}."
    return Drawing("hypervolume-compute", "Hypervolume over compute", caption, figure)


def _steps(study: StudyRecord) -> pd.DataFrame:
    """Return the hypervolume where it grew and after the last trial, with ``seconds`` spent."""
    history = hypervolume_over_trials(study.frame, study.objectives, study.reference)
    seconds = seconds_of_compute(study).loc[history["number"]].cumsum()
    history = history.assign(seconds=seconds.to_numpy())
    grew = history["hypervolume"].diff().fillna(1.0) > 0
    grew.iloc[-1] = True
    return history[grew]


def _step_texts(history: pd.DataFrame, spent: list[str]) -> list[str]:
    steps = zip(spent, history["number"], history["hypervolume"], strict=True)
    return [
        f"after {so_far} (trial {number})<br>hypervolume {share:.3f}"
        for so_far, number, share in steps
    ]


def _growth(across: pd.Series, share: pd.Series, texts: list[str], title: str) -> go.Figure:
    line = go.Scatter(
        x=across.tolist(),
        y=share.tolist(),
        mode="lines" if len(across) > 1 else "markers",
        line={"shape": "hv", "color": FRONT_LOOK.colour, "width": 2.5},
        hoverinfo="text",
        hovertext=texts,
        showlegend=False,
    )
    figure = go.Figure(line)
    figure.update_xaxes(title=title, rangemode="tozero")
    figure.update_yaxes(title="hypervolume", tickformat=".3~f")
    figure.update_layout(LAYOUT)
    return figure


def draw_space(study: StudyRecord, x: Objective, y: Objective) -> Drawing:
    """Draw quality over two other objectives in three dimensions."""
    quality = study.quality
    rows = comparable(study.frame, [x, y, quality])
    best = set(pareto_front(study.frame, study.objectives)["number"])
    on_front, anchor = rows["number"].isin(best), rows["anchor"].notna()
    named = rows["anchor"].fillna("").astype(str)
    traces = [
        go.Scatter3d(
            x=part[x.name].tolist(),
            y=part[y.name].tolist(),
            z=part[quality.name].tolist(),
            name=look.name,
            mode="markers+text" if look is ANCHOR_LOOK else "markers",
            text=[safe(name) for name in named.loc[part.index]] if look is ANCHOR_LOOK else None,
            marker={"color": look.colour, "size": size, "opacity": look.opacity},
            customdata=part["number"].tolist(),
            hoverinfo="text",
        )
        for part, look, size in (
            (rows[~on_front & ~anchor], DOMINATED_LOOK, 3),
            (rows[on_front & ~anchor], FRONT_LOOK, 5),
            (rows[anchor], ANCHOR_LOOK, 5),
        )
        if len(part)
    ]
    figure = go.Figure(traces)
    axes = {"xaxis": axis_of(x), "yaxis": axis_of(y), "zaxis": axis_of(quality)}
    axes["camera"] = {"eye": {"x": 1.7, "y": 1.7, "z": 0.9}, "center": {"z": -0.15}}
    figure.update_layout(**LAYOUT | {"margin": {"l": 0, "r": 0, "t": 0, "b": 0}}, scene=axes)
    title = f"{sentence(quality.title)}, {short_title(x)} and {short_title(y)}"
    return Drawing(SPACE, title, "Drag to turn, scroll to come closer.", figure)


def conditions_text(frame: pd.DataFrame) -> str:
    """Write the conditions of the latency measurements; empty where trials differ in them."""
    texts = {
        ", ".join(
            str(value) if key == "use" else f"{key.replace('_', ' ')} {value}"
            for key, value in conditions.items()
        )
        for conditions in frame["latency_conditions"]
        if isinstance(conditions, dict)
    }
    return texts.pop() if len(texts) == 1 else ""


def sentence(text: str) -> str:
    """Write `text` with a capital letter first, unless its first word has one, as chrF has."""
    first, *_ = text.split(" ", 1)
    return text[:1].upper() + text[1:] if first.islower() else text


def _open(trial: Row) -> str:
    """Return the ending that hollows the symbol of a trial that is dominated over seeds."""
    return "-open" if trial.final and trial.final.standing.by is not None else ""


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.5)"


def safe(text: str) -> str:
    """Escape text for Plotly's subset of HTML, which knows no entities for quotes."""
    return escape(text, quote=False)


def axis_of(objective: Objective) -> dict[str, Any]:
    """Return the layout of an axis: title with unit, and the format of its ticks."""
    title = short_title(objective)
    unit = f" ({objective.unit})" if objective.unit and objective.unit not in title else ""
    tickformat = ".1~%" if is_fraction(objective) else ".3~s"
    return {"title": {"text": safe(f"{title}{unit}")}, "tickformat": tickformat}
