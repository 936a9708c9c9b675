"""Write the model card of exported weights: the plan, the metrics, the training, how to load it.

It is meant to be published, so it contains no path or host of this machine.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from sharetune.results.formatting import difference, quantity, ratio, short_title
from sharetune.results.judging.choices import interval_text
from sharetune.results.judging.examples import example_interval
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.judging.seeds import reported, spreads
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.page.plan_drawing import draw_layers
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.layer_map import layer_map
from sharetune.spaces.layer_text import layers_as_text
from sharetune.spaces.objectives import COSTS, Objective
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.texts import printable

PRIVATE = {"host", "pid"}
"""Circumstances that are not published."""

LOADED_BY_TRANSFORMERS = {"code", "dense", "albert"}
"""Formats that the library loads by itself."""

PAPER_STYLE = (
    "<style>svg{color:#1c2126;font-family:sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#e4e7ea}}</style>"
)
"""Colours of a drawing outside the report: dark lines on light paper, light ones on dark."""

CARD_TEMPLATE = """\
---
{metadata}---

# {base}, trial {number} of {study}

{base} by the sharing plan below, trained by ShareTune; format `{format}`.
{note}
## Load

Run this in the folder that contains this one:

```python
{load}
```

## Plan

{plan}

![Which part of which layer reads which bank](plan.svg)

```
{drawing}
```
{unchanged}
```yaml
{plan_yaml}```

## Figures

Metrics are of the {split} split, with the weights as trained; latency is of the `shared` format.
{seeds}
{figures}

## Training

```yaml
{training}```

## Circumstances

```yaml
{circumstances}```

## Licence

See the base model, {base}.
"""
"""The card in Markdown, with the hub's metadata block."""


@dataclass(frozen=True)
class ExportText:
    """Texts of a card on an export: its format, Python code that loads it, a note or none."""

    format: str
    load: str
    note: str = ""


def model_card(study: StudyRecord, number: int, plan: SharingPlan, export: ExportText) -> str:
    """Write the card of trial `number`, of the bound `plan`, with the hub's metadata block."""
    trial = next(row for row in rows_of(study.frame) if row.number == number)
    task = _without_paths(study.config["task"])
    training = {
        "data": task,
        "study_seed": study.config.get("seed"),
        "recipe": trial.candidate.get("recipe"),
        "compression": trial.candidate.get("compression"),
    }
    return CARD_TEMPLATE.format(
        base=_name(_without_path(study.config["model"])),
        metadata=_metadata(study, trial, export.format),
        number=number,
        study=_name(study.name),
        format=export.format,
        note=f"{export.note}\n" if export.note else "",
        load=export.load,
        plan=plan,
        drawing=layers_as_text(plan, study.model["stacks"]),
        unchanged="".join(f"\n{text}\n" for text in study.unchanged),
        plan_yaml=plan.to_yaml(),
        split=study.selected_on,
        seeds=_over_seeds(study, trial),
        figures="\n".join(_figures(study, trial)),
        training=_yaml(training),
        circumstances=_yaml(_circumstances(study, trial)),
    )


def _over_seeds(study: StudyRecord, trial: Row) -> str:
    """State a finalist's quality on test data, of this retraining and as a mean over its seeds."""
    quality, of = study.quality, trial.finalist
    if of is None:
        return ""
    own = quantity(quality, reported(trial, quality.name))
    text = (
        f"This is trial {of} trained again on another seed: {own} {quality.title} on test data.\n"
    )
    spread = spreads(study.frame, quality).get(of)
    if spread is None:
        return text
    mean = quantity(quality, spread.mean)
    return (
        f"{text}The mean over {len(spread.numbers)} such seeds is {mean}, with a 95 % interval of "
        f"{interval_text(quality, spread)} by Student's t.\n"
    )


def plan_picture(study: StudyRecord, plan: SharingPlan) -> str:
    """Draw the bound plan as an SVG file that is readable on light and on dark paper."""
    drawing = draw_layers(layer_map(plan, study.model["stacks"]))
    start, end = drawing.split(">", 1)
    return f"{start}>{PAPER_STYLE}{end}\n"


def _figures(study: StudyRecord, trial: Row) -> Iterator[str]:
    unshared = unshared_trial(study.frame)
    yield "| | this model | unshared | difference | ratio |"
    yield "|---|---|---|---|---|"
    for objective in dict.fromkeys([*study.trained, *study.objectives, *COSTS, *study.quiet]):
        value = trial.value(objective)
        if isfinite(value):
            base = _unshared_value(objective, trial, unshared)
            yield (
                f"| {short_title(objective)} | {quantity(objective, value)} "
                f"| {quantity(objective, base)} | {difference(objective, value, base)} "
                f"| {ratio(value, base)} |"
            )


def _unshared_value(objective: Objective, trial: Row, unshared: Row | None) -> float:
    """Return the unshared anchor's value; its latency was measured in turns with the trial's."""
    if objective.name == "latency_ms":
        return trial.value("latency_unshared_ms")
    return float("nan") if unshared is None else unshared.value(objective)


def _circumstances(study: StudyRecord, trial: Row) -> dict[str, Any]:
    found = study.circumstances | trial.circumstances
    return {key: value for key, value in found.items() if key not in PRIVATE}


def _without_paths(task: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _without_path(v) for key, v in task.items() if v is not None}


def _metadata(study: StudyRecord, trial: Row, format: str) -> str:
    """Write the hub's metadata; the base model is left out if it is a local folder."""
    model, task = str(study.config["model"]), str(study.config["task"]["name"])
    library = "transformers" if format in LOADED_BY_TRANSFORMERS else "sharetune"
    base = {} if Path(model).is_absolute() else {"base_model": model}
    licence = {"license": "other", "license_name": "that-of-the-base-model"}
    more = {"pipeline_tag": task, "tags": ["sharetune"]}
    results = {"model-index": [_results(study, trial, task)]}
    return _yaml({"library_name": library, **base, **licence, **more, **results})


def _results(study: StudyRecord, trial: Row, task: str) -> dict[str, Any]:
    """Return a model's metrics as the hub's leaderboards read them."""
    data = study.config["task"]
    test = data.get("test")
    source = test if isinstance(test, str) else data.get("train")
    name = str(_without_path(source or "data"))
    metrics = [
        {"type": each.name, "value": round(trial.value(each), 6), "name": _title(trial, each)}
        for each in study.trained
        if isfinite(trial.value(each))
    ]
    dataset = {"type": name, "name": name, "split": study.selected_on}
    result = {"task": {"type": task}, "dataset": dataset, "metrics": metrics}
    return {"name": f"{study.name}, trial {trial.number}", "results": [result]}


def _title(trial: Row, objective: Objective) -> str:
    """Return a metric's title, with the interval of its value where that is known."""
    interval = example_interval(trial, objective)
    if interval is None:
        return objective.title
    low, high = (quantity(objective, end) for end in (interval.low, interval.high))
    return f"{objective.title} (95 % interval {low} to {high})"


def _name(text: Any) -> str:
    """Write a name of the study's in one line of Markdown that is only text."""
    line = " ".join(printable(str(text)).split())
    return line.replace("`", "'").replace("<", "&lt;").replace("[", "\\[")


def _without_path(value: object) -> Any:
    """Shorten a path of this machine to its last part; return anything else as it is."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _yaml(data: object) -> str:
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=88)
    return printable(text).replace("```", "'''")
