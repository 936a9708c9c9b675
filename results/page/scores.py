"""Show the scores of single edits: their effects by layer, what they predict, and rivals."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from statistics import median

import pandas as pd
import plotly.graph_objects as go

from sharetune.results.formatting import difference, percentage, quantity
from sharetune.results.judging.equal_size import Meeting, Rival, meetings
from sharetune.results.judging.front import pareto_front
from sharetune.results.judging.predictions import (
    MEASURED,
    PREDICTED,
    agreements,
    predicted_plans,
)
from sharetune.results.page.figures import (
    ANCHOR_LOOK,
    DOMINATED_LOOK,
    FRONT_LOOK,
    LAYOUT,
    Drawing,
    axis_of,
    sentence,
)
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.objectives import PARAMETERS
from sharetune.spaces.parts import PARTS
from sharetune.spaces.planning.edits import Edit
from sharetune.spaces.planning.score_file import StoredScores
from sharetune.spaces.planning.solving import Scored

SHADES = 9
"""Shades of a heat map, from an edit that costs least to one that costs most."""

SMALL = 1e-3
"""Median price below which prices are multiples of a power of ten."""

KINDS = ("drops", "narrowing", "low rank", "sharing")
"""Columns of rivals, in this order."""


@dataclass(frozen=True)
class HeatCell:
    """The price of an edit as text, its shade (0..`SHADES`), and what a pointer shows."""

    text: str
    shade: int
    hint: str


@dataclass(frozen=True)
class HeatMap:
    """The effects of edits in one stack: a row for each kind of edit, a column for each layer.

    Prices are multiples of `unit`.
    """

    stack: str
    unit: float
    layers: tuple[int, ...]
    rows: dict[str, list[HeatCell | None]]


@dataclass(frozen=True)
class MeetingRow:
    """A model of the front with its size and quality, and a text for each kind of rival."""

    number: int
    parameters: str
    quality: str
    plan: str
    rivals: tuple[tuple[str, str], ...]


def heat_maps(scores: StoredScores) -> list[HeatMap]:
    """Lay out the price of every scored edit: its distance for 1 % of the parameters saved.

    Edits of several layers stand at their first one. Where prices are small, as with a head that
    has learnt nothing yet, they are multiples of a power of ten.
    """
    percent = scores.header.unshared["parameters"] / 100
    scored = [one for one in scores.all_scored if one.saved["parameters"] > 0]
    prices = {one.edit: percent * one.cost / one.saved["parameters"] for one in scored}
    shades, unit = _shades(prices), _unit(prices.values())
    cells = {
        edit: HeatCell(_digits(price / unit), shades[edit], _hint(one, 100 * percent))
        for one, (edit, price) in zip(scored, prices.items(), strict=True)
    }
    return [_heat_map(stack, unit, cells) for stack in dict.fromkeys(edit.stack for edit in cells)]


def _unit(prices: Collection[float]) -> float:
    """Return the power of ten that small prices are multiples of."""
    middle = median(map(abs, prices)) if prices else 1.0
    return 10.0 ** floor(log10(middle)) if 0 < middle < SMALL else 1.0


def _heat_map(stack: str, unit: float, cells: Mapping[Edit, HeatCell]) -> HeatMap:
    own = sorted((edit for edit in cells if edit.stack == stack), key=_order)
    layers = tuple(range(max(edit.layers[-1] for edit in own) + 1))
    rows: dict[str, list[HeatCell | None]] = {}
    for edit in own:
        row = rows.setdefault(_label(edit), [None] * len(layers))
        row[edit.layers[0]] = cells[edit]
    return HeatMap(stack, unit, layers, rows)


def _hint(one: Scored, unshared: float) -> str:
    saved = percentage(one.saved["parameters"] / unshared, ".1%")
    return f"{one.edit}: distance {_digits(one.cost)}, saves {saved} of the parameters"


def _shades(prices: Mapping[Edit, float]) -> dict[Edit, int]:
    """Return a shade for each price by its rank, so that outliers leave the others apart."""
    ranks = pd.Series(list(prices.values()), dtype=float).rank(pct=True)
    return {
        edit: min(SHADES, int(rank * (SHADES + 1)))
        for edit, rank in zip(prices, ranks, strict=True)
    }


def _label(edit: Edit) -> str:
    """Name a kind of edit: its form with knobs, parts, and the layer it starts from."""
    form = edit.group.form
    knobs = " ".join(f"{value:g}" for value in form.model_dump().values() if value is not False)
    parts = "" if edit.named == "+".join(PARTS) else edit.named
    start = f"from {edit.group.init}" if edit.group.init in ("first", "last") else ""
    span = f"of {len(edit.layers)}" if len(edit.layers) > 2 else ""
    return " ".join(word for word in (edit.kind, knobs, parts, start, span) if word)


def _order(edit: Edit) -> tuple[int, str, str]:
    return len(edit.layers), edit.kind, _label(edit)


def _digits(value: float) -> str:
    return f"{value:.2g}"


def draw_predictions(study: StudyRecord) -> tuple[str, list[Drawing]]:
    """Return a sentence with the rank correlations, and the figures of what they are of."""
    rows = predicted_plans(study)
    if rows.empty:
        return "", []
    found = [str(one) for one in agreements(study)]
    lead = "; ".join(found) + "." if found else "Too few plans for a rank correlation."
    drawings = [_against_quality(study, rows)]
    if PREDICTED in rows and rows[PREDICTED].notna().any():
        drawings.insert(0, _against_measured(study, rows))
    return sentence(lead), drawings


def _against_measured(study: StudyRecord, rows: pd.DataFrame) -> Drawing:
    both = rows[rows[PREDICTED].notna() & (rows[PREDICTED] > 0)]
    ends = [min(both[PREDICTED].min(), both[MEASURED].min()), both[MEASURED].max()]
    line = go.Scatter(
        x=ends, y=ends, mode="lines", line={"color": DOMINATED_LOOK.colour, "dash": "dot"}
    )
    line.update(hoverinfo="skip", name="equal")
    figure = go.Figure([line, *_points(study, both, PREDICTED, MEASURED)])
    figure.update_layout(
        xaxis=_distances("sum of single scores"),
        yaxis=_distances("measured, untrained"),
        showlegend=False,
        **LAYOUT,
    )
    caption = "On the dotted line single effects add up exactly."
    return Drawing("predicted-measured", "Predicted against measured distance", caption, figure)


def _against_quality(study: StudyRecord, rows: pd.DataFrame) -> Drawing:
    figure = go.Figure(_points(study, rows, MEASURED, study.quality.name))
    figure.update_layout(
        xaxis=_distances("measured, untrained"),
        yaxis=axis_of(study.quality),
        showlegend=False,
        **LAYOUT,
    )
    title = f"{sentence(study.quality.title)} after training against the distance before"
    return Drawing("measured-trained", title, "What training wins back differs by plan.", figure)


def _points(study: StudyRecord, rows: pd.DataFrame, x: str, y: str) -> list[go.Scatter]:
    front = set(pareto_front(study.frame, study.objectives)["number"])
    is_front, given = rows["number"].isin(front), rows["anchor"].notna()
    parts = [
        (rows[~is_front & ~given], DOMINATED_LOOK),
        (rows[given & ~is_front], ANCHOR_LOOK),
        (rows[is_front], FRONT_LOOK),
    ]
    return [
        go.Scatter(
            x=part[x].astype(float).tolist(),
            y=part[y].astype(float).tolist(),
            name=look.name,
            mode="markers",
            marker={"color": look.colour, "size": min(look.size, 9), "opacity": look.opacity},
            customdata=[int(number) for number in part["number"]],
            hoverinfo="text",
        )
        for part, look in parts
        if len(part)
    ]


def _distances(title: str) -> dict[str, object]:
    return {"title": {"text": title}, "type": "log", "exponentformat": "e", "dtick": 1}


def rival_rows(study: StudyRecord, scores: StoredScores) -> list[MeetingRow]:
    """Write the front's members with the rivals of their size as rows of texts."""
    return [_row(study, meeting) for meeting in meetings(study, scores)]


def _row(study: StudyRecord, meeting: Meeting) -> MeetingRow:
    member, quality = meeting.member, study.quality
    return MeetingRow(
        number=member.number,
        parameters=quantity(PARAMETERS, member.value(PARAMETERS)),
        quality=quantity(quality, member.value(quality)),
        plan=member.title,
        rivals=tuple(_cell(study, meeting, meeting.rivals.get(kind)) for kind in KINDS),
    )


def _cell(study: StudyRecord, meeting: Meeting, rival: Rival | None) -> tuple[str, str]:
    """Return what a cell says of a rival, and under it how it was measured."""
    if rival is None:
        return "–", "comes to no plan so small"
    if rival.quality is None or rival.number is None:
        return "not trained", f"predicted distance {_digits(rival.predicted)}"
    if rival.number == meeting.member.number:
        return "this plan", ""
    own = meeting.member.value(study.quality)
    text = quantity(study.quality, rival.quality)
    return text, f"{difference(study.quality, rival.quality, own)}, trial {rival.number}"


def shown_kinds(rows: Sequence[MeetingRow]) -> list[int]:
    """Return the places of the kinds of rivals that any row has."""
    return [place for place in range(len(KINDS)) if any(r.rivals[place][0] != "–" for r in rows)]
