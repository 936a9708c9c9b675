"""Draw the card of one trial: plan, metrics, training, export, or why it failed."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import isfinite
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from sharetune.results.formatting import (
    bare,
    difference,
    quantity,
    ratio,
    short_title,
    three_digits,
)
from sharetune.results.judging.choices import how_sure, interval_text
from sharetune.results.judging.examples import example_interval, ratio_interval
from sharetune.results.judging.finals import final_study, middle_run
from sharetune.results.judging.front import pareto_front
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.judging.seeds import Spread, reported, spreads
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.page.class_scores import ClassRow, Confusion, class_rows, confusion_of
from sharetune.results.page.learning_curve import draw_curve
from sharetune.results.page.plan_drawing import draw_layers
from sharetune.results.page.trial_rows import STATES, note, plain
from sharetune.results.reading.stored_plans import stored_plan
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.evaluator import AS_TRAINED
from sharetune.spaces.layer_map import layer_map
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.spaces.plan import SharingPlan

MATERIALISED = Objective("materialised_latency_ms", "latency, materialised", "minimize", "ms")
"""Latency of the dense model of the same function; shown, never searched by."""

SHOWN_COSTS = (
    *(OBJECTIVES[name] for name in ("parameters", "stack_parameters", "bytes", "flops")),
    OBJECTIVES["latency_ms"],
    MATERIALISED,
)
"""Sizes and latencies of a card, in the order they are shown."""

WRITING = ("_prefill", "_decode")
"""Ends of the columns' names for what writes text: the two uses of such an export."""

HEADLINE = ("parameters", "latency")
"""Titles of the measures that a small card shows besides the quality."""


@dataclass(frozen=True)
class Measure:
    """One number of a trial, with its difference and ratio to the unshared model, as texts.

    Intervals are of 95 %. Texts are empty where a number is not known.
    """

    title: str
    value: str
    difference: str = ""
    ratio: str = ""
    interval: str = ""
    ratio_interval: str = ""


@dataclass(frozen=True)
class Delivery:
    """The command that exports a trial's model and the Python lines that load it.

    Where there is nothing to export both are empty and `why_not` says why. `weights` is the folder
    of the kept weights; for a finalist `whose` says which training they are from.
    """

    export: str = ""
    load: str = ""
    weights: str = ""
    whose: str = ""
    why_not: str = ""


@dataclass(frozen=True)
class Card:
    """One trial as it is shown. `drawing`, `curve` and `rungs` are SVG, or empty."""

    number: int
    state: str
    anchor: str
    chosen_by: str
    preset: str
    on_front: bool
    plan: str
    note: str
    traceback: str
    drawing: Markup
    unchanged: tuple[str, ...]
    plan_yaml: str
    recipe_yaml: str
    compression_yaml: str
    measures: tuple[Measure, ...]
    quality: str
    sure: str
    curve: Markup
    rungs: Markup
    classes: tuple[ClassRow, ...]
    confusion: Confusion | None
    circumstances: dict[str, str]
    delivery: Delivery

    @property
    def headline(self) -> tuple[Measure, ...]:
        """Return the measures that a small card has room for."""
        return tuple(m for m in self.measures if m.title in (self.quality, *HEADLINE))


def draw_cards(study: StudyRecord) -> list[Card]:
    """Draw a card for each trial: the front's in the front's order, then the others by number.

    Finalists are on the front, or not, by their final numbers.
    """
    cards = _CardMaker(study)
    study = cards.study
    front = rows_of(pareto_front(study.frame, study.objectives))
    numbers = {trial.number for trial in front}
    others = [trial for trial in rows_of(study.frame) if trial.number not in numbers]
    return [cards.card(trial, on_front=True) for trial in front] + [
        cards.card(trial, on_front=False) for trial in others
    ]


def delivery(study: StudyRecord, number: int) -> Delivery:
    """Say how to export and load the model of trial `number`."""
    (trial,) = rows_of(study.frame[study.frame["number"] == number])
    return _CardMaker(study).delivery(trial)


class _CardMaker:
    """Makes the cards of one study, whose numbers are computed once."""

    def __init__(self, study: StudyRecord) -> None:
        self.searched = unshared_trial(study.frame)
        self.study = study = final_study(study)
        self.unshared = unshared_trial(study.frame)
        self.seeds: dict[int, Spread] = spreads(study.frame, study.quality)
        self.qualities = study.frame.set_index("number")[study.quality.name]
        self.stacks = study.model.get("stacks")
        self.folder = study.folder
        self.kept = {int(f.parent.name) for f in study.path.glob("trials/*/model") if _numbered(f)}

    def card(self, trial: Row, *, on_front: bool) -> Card:
        plan = stored_plan(trial.candidate)
        unshared = self.searched if trial.final is None else self.unshared
        return Card(
            number=trial.number,
            state=STATES.get(trial.state, trial.state.lower()),
            anchor=trial.anchor,
            chosen_by=trial.chosen_by,
            preset=trial.preset,
            on_front=on_front,
            plan=trial.plan,
            note=note(trial),
            traceback=trial.error_traceback,
            drawing=_drawing(plan, self.stacks),
            unchanged=tuple(self.study.unchanged),
            plan_yaml=_yaml(plan.written() if plan else trial.candidate.get("plan")),
            recipe_yaml=_yaml(trial.recipe),
            compression_yaml=_yaml(_done(trial.candidate.get("compression"))),
            measures=tuple(_measures(self.study, trial, unshared)),
            quality=short_title(self.study.quality),
            sure=self._sure(trial),
            curve=Markup(draw_curve(trial.curve, unshared.curve if unshared else ())),
            rungs=Markup(draw_curve(_on_the_way(trial, self.study.quality), what="on the way")),
            classes=tuple(class_rows(trial.per_class)),
            confusion=confusion_of(trial.confusion, self.study.model.get("labels")),
            circumstances=_circumstances(trial),
            delivery=self.delivery(trial),
        )

    def _sure(self, trial: Row) -> str:
        spread = self.seeds.get(trial.number)
        quality = self.study.quality
        text = how_sure(quality, trial, spread)
        if spread is None:
            on = self.study.selected_on
            return f"95 % interval {text} by the {on} examples, one seed" if text else ""
        others = ", ".join(str(number) for number in spread.numbers)
        mean = bare(quality, spread.mean)
        parts = [f"{text}, mean {mean} (95 % interval by Student's t; trials {others})"]
        interval = example_interval(trial, quality)
        if interval is not None:
            ends = interval_text(quality, interval)
            parts.append(f"one training by its {interval.count:,} {interval.over}: {ends}")
        return "; ".join(parts)

    def delivery(self, trial: Row) -> Delivery:
        """Say how to export and load the model of a trial."""
        number = trial.number
        owner = number if trial.same_as is None else trial.same_as
        final = self._final_run(number)
        if final is not None:
            return self._exported(
                final,
                final,
                f"Trial {final} is trial {number} on another seed, the middle one of its "
                f"retrainings; trial {number} itself is exported by its own number.",
            )
        if not trial.is_complete:
            return Delivery(why_not="It has no model to export, for it was not completed.")
        if not {number, owner} & self.kept:
            return Delivery(
                why_not="Its weights were not kept. `keep: all` in the study file keeps the "
                "weights of every trial that completes; by default those of the front are kept."
            )
        return self._exported(number, number if number in self.kept else owner)

    def _final_run(self, number: int) -> int | None:
        """Return the retraining of a finalist whose weights are kept, or None."""
        spread = self.seeds.get(number)
        if spread is None or number in spread.numbers:
            return None
        middle = middle_run({run: self.qualities[run] for run in spread.numbers})
        return middle if middle in self.kept else None

    def _exported(self, number: int, owner: int, whose: str = "") -> Delivery:
        out = f"{_slug(self.study.name)}-{number}"
        return Delivery(
            export=f"sharetune export {shlex.quote(self.folder)} {number} {out}",
            load=f"from sharetune import load_shared\nmodel = load_shared({json.dumps(out)})",
            weights=f"{self.folder}/trials/{owner}/model",
            whose=whose,
        )


def _circumstances(trial: Row) -> dict[str, str]:
    stated = trial.circumstances | ({"taken from": trial.earlier} if trial.earlier else {})
    return {key: text for key, value in stated.items() if (text := plain(value))}


def _on_the_way(trial: Row, quality: Objective) -> list[list[Any]]:
    """Return ``[step, quality]`` at each rung."""
    known = [rung for rung in trial.rungs if isinstance(rung, dict)]
    return [[rung.get("step"), rung.get(quality.name)] for rung in known]


def _numbered(weights: Path) -> bool:
    return weights.is_dir() and weights.parent.name.isdigit()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def _done(compression: object) -> dict[str, Any]:
    """Return the keys of a compression that are not off."""
    return {k: v for k, v in compression.items() if v} if isinstance(compression, dict) else {}


def _drawing(plan: SharingPlan | None, stacks: object) -> Markup:
    """Draw the plan's layers; empty where the stacks are unknown or the plan is not bound."""
    if plan is None or not isinstance(stacks, dict):
        return Markup("")
    try:
        return Markup(_drawn(plan, tuple(stacks.items())))
    except ValueError:
        return Markup("")


@lru_cache(maxsize=4096)
def _drawn(plan: SharingPlan, stacks: tuple[tuple[str, int], ...]) -> str:
    return draw_layers(layer_map(plan, dict(stacks)))


def _yaml(data: object) -> str:
    if not data:
        return ""
    text: str = yaml.dump(data, Dumper=_DUMPER, sort_keys=False, default_flow_style=None, width=60)
    return text.strip()


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _measures(study: StudyRecord, trial: Row, unshared: Row | None) -> Iterator[Measure]:
    for objective in dict.fromkeys([*study.trained, *SHOWN_COSTS, *study.quiet, *study.objectives]):
        if isfinite(trial.value(objective)):
            yield _measure(study, objective, trial, unshared)
            yield from _on_test_data(study, objective, trial)
    yield from _by_format(study, trial)
    yield from _in_runtimes(study, trial)
    if tokens := trial.latency_conditions.get("written_tokens"):
        yield _rate(trial, "tokens written with a cache", tokens, "latency")
    if isfinite(trial.value("batch_latency_ms")):
        batch = trial.value("batch_size")
        yield _rate(trial, f"throughput, batch {batch:.0f}", batch, "batch_latency")
    if isfinite(shared := trial.value("effective_ratio")):
        yield Measure("effective ratio", f"{shared:.2f}")


def _measure(study: StudyRecord, objective: Objective, trial: Row, unshared: Row | None) -> Measure:
    if objective.name in ("latency_ms", MATERIALISED.name):
        return _latency(objective, trial, trial.value("latency_unshared_ms"))
    value = trial.value(objective)
    title, text = short_title(objective), quantity(objective, value)
    sure = _interval(*_certain(study, objective, trial), partial(bare, objective))
    if unshared is None or unshared.number == trial.number:
        return Measure(title, text, interval=sure)
    base = unshared.value(objective)
    paired = None if trial.final else ratio_interval(trial, unshared, objective)
    return Measure(
        title,
        text,
        difference(objective, value, base),
        ratio(value, base),
        sure,
        _interval(*paired, "{:.3f}".format) if paired else "",
    )


def _by_format(study: StudyRecord, trial: Row) -> Iterator[Measure]:
    """Yield one training's quality in other number formats, against its own as trained."""
    found = {name: metrics.get(study.quality.name) for name, metrics in trial.by_format.items()}
    trained = found.pop(AS_TRAINED, None)
    for name, value in found.items():
        if value is not None and trained is not None:
            base = quantity(study.quality, trained)
            yield Measure(
                f"{short_title(study.quality)}, {name} (as trained {base})",
                quantity(study.quality, value),
                difference(study.quality, value, trained),
                ratio(value, trained),
            )


def _on_test_data(study: StudyRecord, objective: Objective, trial: Row) -> Iterator[Measure]:
    """Yield one training's quality on the test split, where trials are selected on another."""
    if objective == study.quality and trial.test:
        value = reported(trial, objective.name)
        yield Measure(f"{short_title(objective)}, test split", quantity(objective, value))


def _certain(study: StudyRecord, objective: Objective, trial: Row) -> tuple[float, float]:
    """Return the ends of a value's 95 % interval; NaN where there is none.

    A finalist's quality has one over seeds, what is measured on examples one by these.
    """
    over_seeds = trial.final if objective == study.quality else None
    found = over_seeds or example_interval(trial, objective)
    return (float("nan"), float("nan")) if found is None else (found.low, found.high)


def _in_runtimes(study: StudyRecord, trial: Row) -> Iterator[Measure]:
    """Yield the latencies of the trial's exports, and why others could not hold the model."""
    for column in map(str, study.frame):
        name, found, _ = column.partition("_latency_unshared_ms")
        if found and isfinite(base := trial.value(column)):
            form, use = name.rsplit("_", 1) if name.endswith(WRITING) else (name, "")
            title = f"latency, {form}" + (f", {use}" if use else "")
            yield _latency(Objective(f"{name}_latency_ms", title, "minimize", "ms"), trial, base)
    for form, reason in trial.latency_refused.items():
        yield Measure(f"latency, {form}", f"not exported: {reason}")


def _latency(objective: Objective, trial: Row, base: float) -> Measure:
    """Compare a latency with `base`, the unshared model's, measured in turns with it."""
    form = objective.name.removesuffix("ms")
    value = trial.value(objective)
    low, high = trial.value(f"{form}low_ms"), trial.value(f"{form}high_ms")
    times, least, most = (trial.value(f"{form}ratio{end}") for end in ("", "_low", "_high"))
    return Measure(
        title=short_title(objective),
        value=quantity(objective, value),
        difference=difference(objective, value, base),
        ratio=ratio(times, 1.0),
        interval=_interval(low, high, three_digits),
        ratio_interval=_interval(least, most, "{:.2f}".format),
    )


def _rate(trial: Row, title: str, count: float, latency: str) -> Measure:
    """Turn the latency of `count` items into items per second, against the unshared model."""
    ends = [count / trial.value(f"{latency}_{end}ms") for end in ("", "high_", "low_")]
    value, low, high = (1000 * end for end in ends)
    times, least, most = (1 / trial.value(f"{latency}_ratio{end}") for end in ("", "_high", "_low"))
    return Measure(
        title=title,
        value=f"{three_digits(value)}/s",
        ratio=ratio(times, 1.0),
        interval=_interval(low, high, three_digits),
        ratio_interval=_interval(least, most, "{:.2f}".format),
    )


def _interval(low: float, high: float, text: Callable[[float], str]) -> str:
    if not (isfinite(low) and isfinite(high)):
        return ""
    return f"{text(low)}–{text(high)}"
