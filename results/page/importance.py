"""Draw and describe the importance of each searched value for each objective."""

import plotly.graph_objects as go

from sharetune.results.formatting import percentage, plural, short_title
from sharetune.results.judging.front import comparable
from sharetune.results.judging.searched import LEAST_TRIALS, importances
from sharetune.results.page.figures import FRONT_LOOK, LAYOUT, Drawing, safe
from sharetune.results.reading.study import StudyRecord

MOST_BARS = 8
"""Bars of a figure; values of less importance are left out."""


def draw_importances(study: StudyRecord) -> tuple[str, list[Drawing]]:
    """Return a sentence on the most important values, or why there are none, and the figures."""
    found = importances(study.frame, study.objectives)
    if not found:
        return _too_few(study), []
    titles = {objective.name: short_title(objective) for objective in study.objectives}
    drawings = [_bars(name, titles[name], shares) for name, shares in found.items()]
    leads = [
        f"{titles[name]} by {next(iter(shares))} ({percentage(next(iter(shares.values())))})"
        for name, shares in found.items()
    ]
    return f"Moved most: {'; '.join(leads)}.", drawings


def _too_few(study: StudyRecord) -> str:
    rows = comparable(study.frame, study.objectives)
    drawn = int(rows["anchor"].isna().sum())
    return (
        f"Importance is shown from {LEAST_TRIALS} drawn trials on; there "
        f"{'is' if drawn == 1 else 'are'} {plural(drawn, 'trial')} besides anchors and given plans."
    )


def _bars(name: str, title: str, shares: dict[str, float]) -> Drawing:
    top = list(shares.items())[:MOST_BARS][::-1]
    bar = go.Bar(
        x=[share for _, share in top],
        y=[safe(value) for value, _ in top],
        orientation="h",
        marker={"color": FRONT_LOOK.colour},
        text=[percentage(share) for _, share in top],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    figure = go.Figure(bar)
    figure.update_layout(LAYOUT)
    figure.update_xaxes(range=[0, 1.12], tickformat=".0%", fixedrange=True)
    figure.update_yaxes(fixedrange=True)
    caption = "Share of the variance that each value explains alone (fANOVA)."
    return Drawing(f"importance-{name}", f"What moves {title}", caption, figure)
