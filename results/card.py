"""The model card beside exported weights: what the model is, how good, how made, how loaded.

It is meant to be published, so no path or host of this machine stands in it.
"""

from collections.abc import Iterator, Mapping
from math import isfinite, nan
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sharetune.results.formatting import difference, quantity, ratio, short_title
from sharetune.results.judging.choices import interval_text
from sharetune.results.judging.seeds import reported, spreads
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.page.plan_drawing import draw_layers
from sharetune.results.reading.study import StudyRecord, records
from sharetune.spaces.layer_map import layer_map
from sharetune.spaces.layer_text import layers_as_text
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.plan import SharingPlan

SIZES = ("parameters", "bytes", "flops", "latency_ms")
PRIVATE = {"host", "pid"}
INK = (
    "<style>svg{color:#1c2126;font-family:sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#e4e7ea}}</style>"
)
TEMPLATE = """\
---
{named}license: other
license_name: that-of-the-base-model
pipeline_tag: {task}
tags: [sharetune]
---

# {base}, trial {number} of {study}

{base} by the sharing plan below, trained by ShareTune; format `{format}`.
{note}
## Load

Run this beside this folder:

```python
{load}
```

## Plan

{plan}

![Which part of which layer reads which bank](plan.svg)

```
{drawing}
```

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


def model_card(
    study: StudyRecord, number: int, plan: SharingPlan, format: str, load: str, note: str
) -> str:
    """Markdown with the metadata block of the hub. `plan` is bound; `load` is Python code."""
    trial = next(row for row in records(study.frame) if row["number"] == number)
    task = _without_paths(study.config["task"])
    training = {
        "data": task,
        "study_seed": study.config.get("seed"),
        "recipe": (trial["candidate"] or {}).get("recipe"),
        "compression": (trial["candidate"] or {}).get("compression"),
    }
    return TEMPLATE.format(
        base=_without_path(study.config["model"]),
        named=_base_model(study.config["model"]),
        task=task["name"],
        number=number,
        study=study.name,
        format=format,
        note=f"{note}\n" if note else "",
        load=load,
        plan=plan,
        drawing=layers_as_text(plan, study.model["stacks"]),
        plan_yaml=plan.to_yaml(),
        split=study.selected_on,
        seeds=_over_seeds(study, trial),
        figures="\n".join(_figures(study, trial)),
        training=_yaml(training),
        circumstances=_yaml(_circumstances(study, trial)),
    )


def _over_seeds(study: StudyRecord, trial: Mapping[str, Any]) -> str:
    """What a finalist's training, and the others of its finalist, came to on the test split."""
    if pd.isna(trial["finalist"]):
        return ""
    quality, of = study.quality, int(trial["finalist"])
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
    """The bound plan as an SVG file that is readable on light and on dark paper."""
    drawing = draw_layers(layer_map(plan, study.model["stacks"]))
    start, end = drawing.split(">", 1)
    return f"{start}>{INK}{end}\n"


def _figures(study: StudyRecord, trial: Mapping[str, Any]) -> Iterator[str]:
    unshared = unshared_trial(study.frame)
    yield "| | this model | unshared | difference | ratio |"
    yield "|---|---|---|---|---|"
    sizes = (OBJECTIVES[name] for name in SIZES)
    for objective in dict.fromkeys([*study.trained, *study.objectives, *sizes, *study.quiet]):
        value = float(trial.get(objective.name, nan))
        if isfinite(value):
            base = _unshared_value(objective.name, trial, unshared)
            yield (
                f"| {short_title(objective)} | {quantity(objective, value)} "
                f"| {quantity(objective, base)} | {difference(objective, value, base)} "
                f"| {ratio(value, base)} |"
            )


def _unshared_value(
    name: str, trial: Mapping[str, Any], unshared: Mapping[str, Any] | None
) -> float:
    """The unshared anchor's number; latency was measured in turns with the trial."""
    if name == "latency_ms":
        return float(trial["latency_unshared_ms"])
    return float("nan") if unshared is None else float(unshared[name])


def _circumstances(study: StudyRecord, trial: Mapping[str, Any]) -> dict[str, Any]:
    of_trial = trial["circumstances"] if isinstance(trial["circumstances"], dict) else {}
    found = {**study.circumstances, **of_trial}
    return {key: value for key, value in found.items() if key not in PRIVATE}


def _without_paths(task: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _without_path(v) for key, v in task.items() if v is not None}


def _base_model(model: str) -> str:
    """The line on the base model, which only a model of the hub has."""
    return "" if Path(model).is_absolute() else f"base_model: {model}\n"


def _without_path(value: Any) -> Any:
    """The last part of a path of this machine; anything else as it is."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _yaml(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=88)
