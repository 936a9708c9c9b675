"""Collect the data of the report's script, which narrows, compares and opens trials."""

import base64
import gzip
import json
from collections.abc import Iterable
from math import isfinite, isnan
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from sharetune.results.formatting import quantity, setting, short_title
from sharetune.results.judging.finals import final_study
from sharetune.results.judging.front import pareto_front, smallest_within
from sharetune.results.judging.learning import has_standard
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.judging.searched import ABSENT, is_numeric, searched
from sharetune.results.judging.summary import drops_layers
from sharetune.results.page.figures import x_axes
from sharetune.results.page.hover import hover_text
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.objectives import Objective

MOST_STOPS = 200
"""Stops of a slider: finer steps than a pointer can set."""

VIEW_POINTS = 10
"""Points below the best quality to which a switch of the page narrows the figures."""

MOST_AXES = 9
"""Axes of the parallel coordinates, as many as fit a page's width."""

ROOM = 1.2
"""Factor by which plots reach beyond the farthest model that they are to show."""

PACKED_TOGETHER = 50
"""Trials in one compressed chunk: few enough to open quickly, enough to compress well."""

KIND_OF_STATE = {
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "unfinished",
    "WAITING": "unfinished",
}
"""Kinds of trials that are not complete, by Optuna's state."""


def review(study: StudyRecord) -> dict[str, Any]:
    """Return the page's data, as plain data; finalists have their final numbers.

    It holds the trials with their numbers, the limits that can be set, the front in order of its
    first axis, the trial that is opened first, and the parallel coordinates.
    """
    searched, study = study, final_study(study)
    axes = x_axes(study)
    quality = study.quality
    numbers = _front(study, axes)
    limited = [quality, *(axis for axis in axes if axis.direction == "minimize")]
    shown = list(dict.fromkeys([*limited, *axes, *study.objectives]))
    return {
        "trials": [_trial(study, trial, shown, set(numbers)) for trial in rows_of(study.frame)],
        "limits": [limit for o in limited if (limit := _limit(study.frame, o, quality))],
        "quality": {
            "name": quality.name,
            "maximize": quality.direction == "maximize",
            "view": _view(study),
        },
        "front": numbers,
        "first": _first(study, numbers),
        "parallel": parallel(searched, [quality, *axes]),
    }


def as_json(data: object) -> Markup:
    """Write plain data as JSON that is safe inside a script element."""
    return script_safe(json.dumps(data, allow_nan=False, separators=(",", ":")))


def script_safe(text: str) -> Markup:
    """Escape JSON text so that it cannot end its script element."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def packed(pages: dict[int, str]) -> dict[str, Any]:
    """Compress texts, given by number, for a browser's `DecompressionStream`.

    Chunk i of ``chunks`` is base64 of gzipped JSON of the ``size`` numbers from i times ``size``.
    """
    chunks: dict[int, dict[str, str]] = {}
    for number, page in sorted(pages.items()):
        chunks.setdefault(number // PACKED_TOGETHER, {})[str(number)] = page
    return {"size": PACKED_TOGETHER, "chunks": {i: _gzipped(chunk) for i, chunk in chunks.items()}}


def _gzipped(data: dict[str, str]) -> str:
    packed = gzip.compress(json.dumps(data).encode(), 6, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def kind_of(trial: Row, front: Iterable[int]) -> str:
    """Return the kind of a trial by which the page shows and hides it.

    One of ``front``, ``anchor``, ``dominated``, ``repeat``, ``pruned``, ``failed``,
    ``unfinished``.
    """
    if trial.state in KIND_OF_STATE:
        return KIND_OF_STATE[trial.state]
    if trial.number in front:
        return "front"
    if trial.same_as is not None or trial.finalist is not None:
        return "repeat"
    return "anchor" if trial.anchor else "dominated"


def _trial(
    study: StudyRecord, trial: Row, shown: list[Objective], front: set[int]
) -> dict[str, Any]:
    known = {o: value for o in shown if isfinite(value := trial.value(o))}
    texts = (f"{quantity(o, value)} {short_title(o)}" for o, value in known.items())
    return {
        "n": trial.number,
        "kind": kind_of(trial, front),
        "v": {o.name: value for o, value in known.items()},
        "brief": ", ".join(texts),
        "hover": hover_text(study, trial),
    }


def _limit(frame: pd.DataFrame, objective: Objective, quality: Objective) -> dict[str, Any] | None:
    """Describe a slider over the values that occur, loosest first; None for fewer than two."""
    values = sorted(set(frame[objective.name].dropna().tolist()))
    if len(values) < 2:
        return None
    least = objective.direction == "maximize"
    picks = sorted({round(i * (len(values) - 1) / (MOST_STOPS - 1)) for i in range(MOST_STOPS)})
    stops = [[values[i], quantity(objective, values[i])] for i in picks]
    return {
        "name": objective.name,
        "title": f"{'least' if least else 'most'} {short_title(objective)}",
        "least": least,
        "stops": stops if least else stops[::-1],
    }


def _view(study: StudyRecord) -> float | None:
    """Return how far from the best quality plots reach at first; None where they show all.

    That is `VIEW_POINTS`, or farther if the unshared model or an anchor that drops layers, which
    all others are compared with, would lie beyond.
    """
    quality = study.quality
    if not quality.point:
        return None
    values = study.frame[quality.name]
    is_compared = drops_layers(study.frame) | (study.frame["anchor"] == UNSHARED)
    compared = values[is_compared] * quality.sign
    reach = compared.max() - (values * quality.sign).min()
    return float(np.fmax(VIEW_POINTS * quality.point, ROOM * reach))


def opened_first(study: StudyRecord) -> int | None:
    """Return the number of the trial that the page opens first, as :func:`_first` chooses it."""
    study = final_study(study)
    return _first(study, _front(study, x_axes(study)))


def _front(study: StudyRecord, axes: list[Objective]) -> list[int]:
    front = pareto_front(study.frame, study.objectives)
    if axes and not front.empty:
        front = front.sort_values([axes[0].name, study.quality.name])
    numbers: list[int] = front["number"].tolist()
    return numbers


def _first(study: StudyRecord, front: list[int]) -> int | None:
    """Return the smallest trial within one point, else the front's best, else the first trial."""
    smallest = smallest_within(study.frame, 1.0, study.quality)
    if smallest is not None and has_standard(study):
        return smallest.number
    if front:
        return front[-1]
    return int(study.frame["number"].iloc[0]) if len(study.frame) else None


def parallel(study: StudyRecord, objectives: list[Objective]) -> dict[str, Any]:
    """Return axes of searched values and objectives, and the trials' places (0..1) on them."""
    table = searched(study.frame)
    if table.empty:
        return {"axes": [], "lines": {}}
    names = [str(name) for name in table][: MOST_AXES - len(objectives)]
    rows = study.frame.set_index("number").loc[table.index]
    found = [_searched_axis(name, table[name]) for name in names]
    found += [_objective_axis(o, rows[o.name]) for o in objectives]
    axes, places = [axis for axis, _ in found], [place for _, place in found]
    lines = {str(n): list(at) for n, at in zip(table.index, zip(*places, strict=True), strict=True)}
    return {"axes": axes, "lines": lines}


def _searched_axis(name: str, values: pd.Series) -> tuple[dict[str, Any], list[float | None]]:
    if is_numeric(values):
        low, high = float(values.min()), float(values.max())
        ticks = [[0.0, setting(low)], [1.0, setting(high)]]
        return {"title": name, "ticks": ticks}, _scaled(values, low, high)
    texts = [ABSENT if v is None or v != v else str(v) for v in values]
    distinct = sorted(set(texts))
    step = 1 / max(1, len(distinct) - 1)
    ticks = [[i * step, text] for i, text in enumerate(distinct)]
    return {"title": name, "ticks": ticks}, [distinct.index(text) * step for text in texts]


def _objective_axis(
    objective: Objective, values: pd.Series
) -> tuple[dict[str, Any], list[float | None]]:
    low, high = float(values.min()), float(values.max())
    ticks = [[0.0, quantity(objective, low)], [1.0, quantity(objective, high)]]
    axis = {"title": short_title(objective), "ticks": ticks, "objective": True}
    return axis, _scaled(values, low, high)


def _scaled(values: pd.Series, low: float, high: float) -> list[float | None]:
    """Scale values from `low` (0) to `high` (1); None for NaN."""
    span = (high - low) or 1.0
    return [None if isnan(value) else round((float(value) - low) / span, 4) for value in values]
