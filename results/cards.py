"""The models on the front, each with what a person needs to choose it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from results.drawing import draw_layers
from results.front import pareto_front
from results.numbers import difference, quantity, ratio, short_title, three_digits
from results.study import StudyRecord, records
from results.summary import unshared_trial
from spaces.layer_map import layer_map
from spaces.objectives import OBJECTIVES, Objective
from spaces.plan import SharingPlan

MATERIALISED = Objective("materialised_latency_ms", "latency, materialised", "minimize", "ms")
MEASURED = (
    *(OBJECTIVES[name] for name in ("accuracy", "macro_f1", "parameters", "stack_parameters")),
    *(OBJECTIVES[name] for name in ("bytes", "flops", "latency_ms")),
    MATERIALISED,
)


@dataclass(frozen=True)
class Measure:
    """One number of a trial, and against the unshared model: difference and ratio. Intervals
    are of 95 %, and empty where there are none."""

    title: str
    value: str
    difference: str = ""
    ratio: str = ""
    interval: str = ""
    ratio_interval: str = ""


@dataclass(frozen=True)
class Card:
    """A trial of the front. `drawing` is SVG; `weights` the folder of its model, if kept."""

    number: int
    anchor: str
    plan: str
    drawing: Markup
    plan_yaml: str
    recipe_yaml: str
    measures: tuple[Measure, ...]
    weights: Path | None


def draw_cards(study: StudyRecord) -> list[Card]:
    """One card for each trial on the front, in the front's order."""
    unshared = unshared_trial(study.frame)
    front = records(pareto_front(study.frame, study.objectives))
    return [_card(study, trial, unshared) for trial in front]


def _card(study: StudyRecord, trial: dict[str, Any], unshared: dict[str, Any] | None) -> Card:
    candidate = trial["candidate"] if isinstance(trial["candidate"], dict) else {}
    plan = _plan(candidate)
    weights = study.path / "trials" / str(trial["number"]) / "model"
    return Card(
        number=trial["number"],
        anchor=trial["anchor"] if isinstance(trial["anchor"], str) else "",
        plan=trial["plan"] if isinstance(trial["plan"], str) else "",
        drawing=_drawing(plan, study.model.get("stacks")),
        plan_yaml=_yaml(plan.written() if plan else candidate.get("plan")),
        recipe_yaml=_yaml(candidate.get("recipe")),
        measures=tuple(_measures(study, trial, unshared)),
        weights=weights if weights.is_dir() else None,
    )


def _plan(candidate: dict[str, Any]) -> SharingPlan | None:
    """The plan; None where none is stored, or one that this version cannot read."""
    try:
        return SharingPlan.model_validate(candidate["plan"])
    except (KeyError, ValueError):
        return None


def _drawing(plan: SharingPlan | None, stacks: Any) -> Markup:
    """The plan's layers; nothing where the stacks are unknown or the plan is not bound."""
    if plan is None or not isinstance(stacks, dict):
        return Markup("")
    try:
        return Markup(draw_layers(layer_map(plan, stacks)))
    except ValueError:
        return Markup("")


def _yaml(data: Any) -> str:
    if not data:
        return ""
    text: str = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=60)
    return text.strip()


def _measures(
    study: StudyRecord, trial: dict[str, Any], unshared: dict[str, Any] | None
) -> Iterator[Measure]:
    for objective in dict.fromkeys([*MEASURED, *study.objectives]):
        if isfinite(trial[objective.name]):
            yield _measure(objective, trial, unshared)
    if isfinite(trial["effective_ratio"]):
        yield Measure("effective ratio", f"{trial['effective_ratio']:.2f}")


def _measure(
    objective: Objective, trial: dict[str, Any], unshared: dict[str, Any] | None
) -> Measure:
    if objective.name in ("latency_ms", MATERIALISED.name):
        return _latency(objective, trial)
    value = trial[objective.name]
    title, text = short_title(objective), quantity(objective, value)
    if unshared is None or unshared["number"] == trial["number"]:
        return Measure(title, text)
    base = unshared[objective.name]
    return Measure(title, text, difference(objective, value, base), ratio(value, base))


def _latency(objective: Objective, trial: dict[str, Any]) -> Measure:
    """Latency against the unshared model as measured in turns with this one."""
    form = objective.name.removesuffix("ms")
    value, base = trial[objective.name], trial["latency_unshared_ms"]
    low, high = trial[f"{form}low_ms"], trial[f"{form}high_ms"]
    times, least, most = (trial[f"{form}ratio{end}"] for end in ("", "_low", "_high"))
    return Measure(
        title=short_title(objective),
        value=quantity(objective, value),
        difference=difference(objective, value, base),
        ratio=ratio(times, 1.0),
        interval=_interval(low, high, three_digits),
        ratio_interval=_interval(least, most, "{:.2f}".format),
    )


def _interval(low: float, high: float, text: Callable[[float], str]) -> str:
    if not (isfinite(low) and isfinite(high)):
        return ""
    return f"{text(low)}–{text(high)}"
