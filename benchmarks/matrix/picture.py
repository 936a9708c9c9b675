"""Draw the matrix: one panel a workload, quality against size, one line a method."""

from collections.abc import Iterator, Sequence
from html import escape
from math import isnan, log10
from statistics import fmean

from benchmarks.matrix.names import (
    DROPS,
    FOUND,
    LOW_RANK,
    NARROWING,
    SHARING,
    SMALLER,
    TIED,
    UNSHARED,
)
from benchmarks.matrix.rows import Row
from benchmarks.matrix.table import Cells, grouped

COLOURS = {
    DROPS: "#6b7785",
    NARROWING: "#00876c",
    LOW_RANK: "#8a63c7",
    TIED: "#b5473c",
    SHARING: "#d1a01f",
    SMALLER: "#a8b0b8",
    FOUND: "#d1701f",
}
"""Colours of the methods' lines, ShareTune's last and so on top."""

ACROSS, WIDTH, HEIGHT = 3, 300, 220
"""Panels in a row, and a panel's size in pixels with its margins."""

LEFT, RIGHT, TOP, BOTTOM = 52, 10, 34, 34
"""Margins of a panel, in pixels."""

SHOWN = (DROPS, NARROWING, SHARING, FOUND)
"""Methods that a panel shows whole; others only as far down, as one that learns nothing must not
flatten them."""

STYLE = (
    "<style>text{font:12px sans-serif;fill:#1c2126}.title{font-weight:600}"
    ".axis{stroke:#d5dade}@media(prefers-color-scheme:dark){text{fill:#e4e7ea}}</style>"
)


class Panel:
    """The drawing of one workload after trainings of one length."""

    def __init__(self, title: str, rows: Sequence[Row]) -> None:
        self.title, self.cells = title, Cells(rows)
        self.logarithmic = self.cells.quality.name == "perplexity"
        self.whole = self._mean(self.cells.of(UNSHARED, 1.0))
        sign = self.cells.quality.sign
        costs = {
            method: [
                sign * v for part in self.cells.parts if not isnan(v := self._at(method, part))
            ]
            for method in COLOURS
        }
        worst = max(sign * self.whole, *(cost for method in SHOWN for cost in costs[method]))
        best = min(sign * self.whole, *(cost for own in costs.values() for cost in own))
        room = 0.08 * (worst - best)
        self.low, self.high = sorted((sign * (best - room), sign * (worst + room)))

    def _mean(self, rows: Sequence[Row]) -> float:
        values = [log10(r.quality) if self.logarithmic else r.quality for r in rows]
        return fmean(values) if values else float("nan")

    def _at(self, method: str, part: float) -> float:
        return self._mean(self.cells.of(method, part))

    def svg(self) -> str:
        """Return the panel as an SVG group at the origin."""
        return "".join(
            [
                f'<text class="title" x="{LEFT}" y="16">{escape(self.title)}</text>',
                *self._axes(),
                *(self._line(method) for method in COLOURS),
            ]
        )

    def _axes(self) -> Iterator[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        for part in (*self.cells.parts, 1.0):
            place = f'x="{self._x(part):.0f}" y="{bottom + 16}" text-anchor="middle"'
            yield f"<text {place}>{100 * part:g} %</text>"
        for value in (self.low, (self.low + self.high) / 2, self.high):
            y, shown = self._y(value), 10**value if self.logarithmic else value
            yield f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            text = f"{shown:,.0f}" if shown >= 100 else f"{shown:.3g}"
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        y = self._y(self.whole)
        yield f'<circle cx="{self._x(1.0):.1f}" cy="{y:.1f}" r="4" fill="#3a7ca5"/>'

    def _line(self, method: str) -> str:
        points = [
            (self._x(part), self._y(value))
            for part in self.cells.parts
            if self.low <= (value := self._at(method, part)) <= self.high
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        stroke = f'stroke="{COLOURS[method]}" stroke-width="{3 if method == FOUND else 1.6}"'
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[method]}"/>' for x, y in points
        )
        return f'<polyline points="{path}" fill="none" {stroke}/>{dots}' if points else ""

    def _x(self, part: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (part - 0.15) / 0.9

    def _y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)


def picture(rows: Sequence[Row]) -> str:
    """Return the panels of all workloads after trainings of their own length, as one SVG."""
    panels = [
        Panel(_title(workload, own), own) for (workload, times), own in grouped(rows) if times == 1
    ]
    lines = -(-len(panels) // ACROSS)
    width, height = ACROSS * WIDTH, lines * HEIGHT + 30
    placed = "".join(
        f'<g transform="translate({i % ACROSS * WIDTH},{i // ACROSS * HEIGHT})">{panel.svg()}</g>'
        for i, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{STYLE}{placed}{_legend(lines * HEIGHT + 14)}</svg>'
    )


def _title(workload: str, rows: Sequence[Row]) -> str:
    quality = Cells(rows).quality
    better = "less is better" if quality.direction == "minimize" else "more is better"
    return f"{workload}: {quality.title}, {better}"


def _legend(y: int) -> str:
    x, entries = LEFT, []
    for method, colour in {UNSHARED: "#3a7ca5", **COLOURS}.items():
        entries.append(
            f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>'
            f'<text x="{x + 9}" y="{y}">{escape(method)}</text>'
        )
        x += 28 + 7 * len(method)
    return "".join(entries)
