"""Find the models a reviewer is likely to choose, each by one rule on the numbers."""

from dataclasses import dataclass
from math import hypot, isfinite

import numpy as np
import pandas as pd

from sharetune.results.formatting import bare, margin, plural, quantity, ratio, short_title
from sharetune.results.judging.examples import ExampleInterval, example_interval
from sharetune.results.judging.finals import final_study
from sharetune.results.judging.front import comparable, pareto_front, smallest_within
from sharetune.results.judging.learning import has_standard, none_learned
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.judging.seeds import Spread, spreads
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.objectives import OBJECTIVES, PARAMETERS, Objective

WITHIN = (0.5, 1.0, 2.0)
"""Points of quality below the unshared model within which the smallest model is looked for."""

SPEEDS = (OBJECTIVES["latency_ms"], OBJECTIVES["flops"])
"""Objectives by which models are called fast: the first that was measured is used."""


@dataclass(frozen=True)
class Choice:
    """A trial that a rule found, as texts. `sure` is the 95 % interval of its quality."""

    rule: str
    number: int
    quality: str
    sure: str
    parameters: str
    size_ratio: str
    speed: str
    plan: str


def choices(study: StudyRecord) -> list[Choice]:
    """Find the trials a reviewer is likely to choose from, each with the rules that found it.

    The rules: the smallest within 0.5, 1 and 2 points of the unshared model, the fastest within
    one point, and the knee of the front. Where there are finalists only they are looked at. Rules
    that find nothing are left out; where nothing has learned anything, all are, and where only the
    unshared model has not, those that compare with it.
    """
    seeds = spreads(study.frame, study.quality)
    study = final_study(study)
    if none_learned(study.frame, study.quality):
        return []
    near = [*_smallest(study), *_fastest(study)] if has_standard(study) else []
    found = [*near, *_knee(study)]
    joined: dict[int, list[str]] = {}
    trials = {trial.number: trial for _, trial in found}
    for rule, trial in found:
        joined.setdefault(trial.number, []).append(rule)
    unshared = unshared_trial(study.frame)
    return [
        _choice(study, _together(rules), trials[number], unshared, seeds.get(number))
        for number, rules in joined.items()
    ]


def fastest_within(
    frame: pd.DataFrame, quality: Objective, points: float = 1.0
) -> tuple[Objective, Row] | None:
    """Find the trial of least latency within `points` of the unshared anchor's quality.

    Where latency was not measured, the one of fewest FLOPs. Returns the objective that decided and
    the trial; None where nothing can be compared.
    """
    unshared = unshared_trial(frame)
    if unshared is None:
        return None
    for speed in SPEEDS:
        rows = comparable(frame, [quality, speed])
        near = rows[quality.near(rows[quality.name], unshared.value(quality), points)]
        if len(near) > 1:
            rising = [True, quality.direction == "minimize"]
            order = near.sort_values([speed.name, quality.name], ascending=rising)
            return speed, rows_of(order)[0]
    return None


def knee(frame: pd.DataFrame, quality: Objective, size: Objective) -> Row | None:
    """Find the front's knee: the trial farthest from the line between the front's ends.

    Both axes are scaled to 0..1 (Das, "On characterizing the knee of the Pareto curve", 1999).
    None for a front of fewer than three points, and where no point lies beyond the line.
    """
    front = pareto_front(frame, [quality, size]).drop_duplicates([quality.name, size.name])
    if len(front) < 3:
        return None
    points = front[[size.name, quality.name]].to_numpy(dtype=float)
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    first, last = scaled[0], scaled[-1]
    way = last - first
    beyond = (way[0] * (scaled - first)[:, 1] - way[1] * (scaled - first)[:, 0]) / hypot(*way)
    beyond *= -1 if quality.direction == "maximize" else 1
    best = int(np.argmax(beyond))
    return rows_of(front)[best] if beyond[best] > 1e-9 else None


def _smallest(study: StudyRecord) -> list[tuple[str, Row]]:
    quality = study.quality
    found = [(p, smallest_within(study.frame, p, quality)) for p in WITHIN]
    return [(f"smallest within {margin(quality, p)}", trial) for p, trial in found if trial]


def _fastest(study: StudyRecord) -> list[tuple[str, Row]]:
    found = fastest_within(study.frame, study.quality)
    if found is None:
        return []
    speed, trial = found
    what = "fastest" if speed.name == "latency_ms" else "fewest FLOPs"
    return [(f"{what} within {margin(study.quality, 1.0)}", trial)]


def _knee(study: StudyRecord) -> list[tuple[str, Row]]:
    trial = knee(study.frame, study.quality, PARAMETERS)
    what = f"knee of {short_title(study.quality)} against parameters"
    return [(what, trial)] if trial else []


def _together(rules: list[str]) -> str:
    """Join rules in words: ``smallest within 0.5 and 1 point; fastest within 1 point``."""
    starts: dict[str, list[str]] = {}
    for rule in rules:
        what, _, margin = rule.partition(" within ")
        starts.setdefault(what, []).append(margin)
    return "; ".join(_widened(what, margins) for what, margins in starts.items())


def _widened(what: str, margins: list[str]) -> str:
    if not margins[0]:
        return what
    *most, last = margins
    if not most:
        return f"{what} within {last}"
    first = ", ".join(margin.split()[0] for margin in most)
    return f"{what} within {first} and {last}"


def _choice(
    study: StudyRecord,
    rule: str,
    trial: Row,
    unshared: Row | None,
    spread: Spread | None,
) -> Choice:
    base = unshared.value(PARAMETERS) if unshared else float("nan")
    return Choice(
        rule=rule,
        number=trial.number,
        quality=quantity(study.quality, trial.value(study.quality)),
        sure=how_sure(study.quality, trial, spread),
        parameters=quantity(PARAMETERS, trial.value(PARAMETERS)),
        size_ratio=ratio(trial.value(PARAMETERS), base),
        speed=speed_text(trial, unshared),
        plan=trial.title,
    )


def how_sure(quality: Objective, trial: Row, spread: Spread | None) -> str:
    """Write the 95 % interval of a trial's quality; empty where there is none.

    It is over seeds where there are several, else by the examples measured on.
    """
    if spread is not None:
        return f"{interval_text(quality, spread)} over {plural(len(spread.numbers), 'seed')}"
    interval = example_interval(trial, quality)
    return interval_text(quality, interval) if interval else ""


def interval_text(quality: Objective, interval: Spread | ExampleInterval) -> str:
    """Write the ends of an interval: ``91.0–93.4``."""
    return f"{bare(quality, interval.low)}–{bare(quality, interval.high)}"


def speed_text(trial: Row, unshared: Row | None) -> str:
    """Write the latency, or else the FLOPs, with the ratio to the unshared model."""
    latency, flops = SPEEDS
    times = trial.value("latency_ratio")
    if isfinite(times):
        return f"{quantity(latency, trial.value(latency))} ({ratio(times, 1.0)})"
    value = trial.value(flops)
    if unshared is None or not isfinite(value):
        return ""
    base = unshared.value(flops)
    return quantity(flops, value) + (f" ({ratio(value, base)})" if isfinite(base) else "")
