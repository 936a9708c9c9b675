"""Draw a learning curve as a small inline SVG, over the unshared model's in grey."""

from collections.abc import Sequence
from html import escape
from math import isfinite

WIDTH = 440  # pixels of the picture
HEIGHT = 132
LEFT = 40  # pixels of the margins; left and bottom have room for the axes' numbers
RIGHT = 8
TOP = 8
BOTTOM = 22

SMOOTHING = 0.6
"""Share (0..1) that the running mean keeps at each point."""

LossCurve = list[tuple[float, float]]
"""Steps and values."""


def draw_curve(curve: object, reference: object = None, what: str = "training loss") -> str:
    """Draw ``[[step, value], ...]`` as ``<svg>``; empty if fewer than two points are numbers.

    Faint dots are the values as logged, the line is their running mean, which forgets 40 % at each
    point. `reference` is drawn behind, as a line alone.
    """
    points, behind = _points(curve), _points(reference)
    if len(points) < 2:
        return ""
    place = _Scale(points + behind)
    label = (
        f"{what}: {points[0][1]:.3g} at step {points[0][0]:g}, "
        f"{points[-1][1]:.3g} at step {points[-1][0]:g}"
    )
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.6"/>' for x, y in map(place, points))
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(label)}</title>{place.axes()}'
        f'<path class="behind" d="{_path(place, behind)}"/>'
        f'<g class="dots">{dots}</g><path d="{_path(place, points)}"/></svg>'
    )


class _Scale:
    """The map from step and loss to pixels."""

    def __init__(self, points: LossCurve) -> None:
        steps, losses = [p[0] for p in points], [p[1] for p in points]
        self.last = max(steps) or 1.0
        self.low, self.high = min(0.0, *losses), max(losses) or 1.0

    def __call__(self, point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + point[0] / self.last * (WIDTH - LEFT - RIGHT)
        share = (point[1] - self.low) / ((self.high - self.low) or 1.0)
        return x, HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> str:
        """Draw the two axes with their extreme values."""
        x, y = self((0.0, self.low))
        top = self((0.0, self.high))[1]
        return (
            f'<path class="axis" d="M{x:g} {top:g}V{y:g}H{WIDTH - RIGHT}"/>'
            f'<text x="{x - 5}" y="{top + 4:g}" text-anchor="end">{self.high:.3g}</text>'
            f'<text x="{x - 5}" y="{y:g}" text-anchor="end">{self.low:.3g}</text>'
            f'<text x="{x:g}" y="{HEIGHT - 6}">0</text>'
            f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">'
            f"step {self.last:g}</text>"
        )


def _points(curve: object) -> LossCurve:
    if not isinstance(curve, Sequence) or isinstance(curve, str):
        return []
    pairs = [p for p in curve if isinstance(p, list | tuple) and len(p) == 2]
    return [
        (float(step), float(loss))
        for step, loss in pairs
        if isinstance(step, int | float) and isinstance(loss, int | float) and isfinite(loss)
    ]


def _path(place: _Scale, points: LossCurve) -> str:
    mean, smooth = points[0][1] if points else 0.0, []
    for step, loss in points:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth.append(place((step, mean)))
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in smooth) if smooth else ""
