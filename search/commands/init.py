"""Writes a study file that works as it is, after looking at the model and the data."""

import json
import os
from pathlib import Path
from typing import Any

from sharetune.spaces.errors import ConfigError, ModelError, RunError
from sharetune.spaces.plan import StackShape

TRIALS = 24
BATCH = 16
MOST_STEPS = 1000
LEAST_STEPS = 50
EPOCHS = 3
PRETRAINED = "{low: 1.0e-5, high: 3.0e-4, log: true}"
FROM_SCRATCH = "{low: 5.0e-4, high: 5.0e-3, log: true}"
TEMPLATE = """\
# {stacks}
# {rows}; {start}.
name: {name}
model: {model}
task:
  name: {task}
  train: {data}
{test}{keys}
objectives: [{metric}, parameters, flops]   # the task also measures {others}
budget: {{trials: {trials}}}               # anchors and plans included

plans:                            # tried right after the anchors
{plans}
space:
  plan:
{groups}
  recipe:
    learning_rate: {rate}
    steps: {steps}                    # {epochs}
    warmup_ratio: 0.1
    batch_size: {batch}
    max_length: {length}               # {unit}

latency: {{rounds: 20}}             # measured after the trials, on the front and the anchors
# finalists: {{seeds: 3}}           # then trains these again on three further seeds; with
#                                 # validation: 0.2 in task, only they see the test split
"""


def write_study(
    task: str,
    model: str,
    data: str,
    out: Path,
    test: str | None = None,
    overrides: tuple[str, ...] = (),
) -> str:
    """Writes the study file `out` and returns its text. Paths in it are relative to `out`;
    `overrides` such as ``task.pair=question`` set keys of the task.

    Raises :class:`SharetuneError` for data or a model that does not fit, and :class:`RunError` if
    there is such a file already.
    """
    from sharetune.spaces.layer_text import stacks_text
    from sharetune.trainers.data.new_models import is_configuration_only
    from sharetune.trainers.tasks.base import read_task

    if out.exists():
        raise RunError(f"{out} exists already", "name another with --out, or remove it")
    keys = _task_keys(overrides)
    made = read_task({"name": task, "train": data} | ({"test": test} if test else {}) | keys)
    train, held_out, facts = made.read()
    shell = made.skeleton(model, facts)
    shapes = _shapes(shell)
    scratch = is_configuration_only(model)
    if not scratch:
        made.refuse_unread(train, made.reader(model))
    steps = min(MOST_STEPS, max(LEAST_STEPS, EPOCHS * len(train) // BATCH))
    text = TEMPLATE.format(
        stacks=stacks_text({name: shape.depth for name, shape in shapes.items()}),
        rows=f"{len(train)} training and {len(held_out)} test examples",
        start="trained from scratch" if scratch else "fine-tuned",
        name=out.resolve().parent.name if out.stem == "study" else out.stem,
        model=_beside(model, out),
        task=task,
        data=_beside(data, out),
        test=f"  test: {_beside(test, out)}\n"
        if test
        else "                                  "
        "# without test: a fifth of the training examples is held out\n",
        keys="".join(f"  {key}: {json.dumps(value)}\n" for key, value in keys.items()),
        metric=made.metrics[0],
        others=", ".join(made.metrics[1:]),
        trials=TRIALS,
        plans="".join(_plan(name, shape, len(shapes)) for name, shape in shapes.items()),
        groups="".join(_group(name, shape, len(shapes)) for name, shape in shapes.items()).rstrip(),
        rate=FROM_SCRATCH if scratch else PRETRAINED,
        steps=steps,
        epochs=f"{steps * BATCH / len(train):.1f} epochs",
        batch=BATCH,
        length=made.length(train, shell),
        unit=made.unit,
    )
    _check(text, out)
    out.write_text(text, "utf-8")
    return text


def _task_keys(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The task's keys that `overrides` set. Raises :class:`ConfigError` for other sections."""
    from sharetune.search.config import override

    data: dict[str, Any] = {"task": {}}
    for each in overrides:
        override(data, each)
    if others := [f"{name}" for name in data if name != "task"]:
        raise ConfigError(
            f"init sets keys of task, but got {others[0]}",
            "change the others in the file that it writes",
        )
    return dict(data["task"])


def _shapes(shell: Any) -> dict[str, StackShape]:
    from sharetune.trainers.models.structure import stack_shapes

    shapes = {name: shape for name, shape in stack_shapes(shell).items() if shape.depth > 1}
    if not shapes:
        raise ModelError("the model has no two layers that could share", "name a deeper model")
    return shapes


def _place(name: str, stacks: int) -> str:
    return f"stack: {name}, " if stacks > 1 else ""


def _plan(name: str, shape: StackShape, stacks: int) -> str:
    """All but the outermost layers at ratio 0.7, where there are such."""
    first, last = (1, shape.depth - 2) if shape.depth > 3 else (0, shape.depth - 1)
    form = "form: {bank: {ratio: 0.7}}"
    return f"  - groups: [{{{_place(name, stacks)}layers: {first}..{last}, {form}}}]\n"


def _group(name: str, shape: StackShape, stacks: int) -> str:
    """One group of adjacent layers; up to two in a deep stack."""
    lines = [f"stack: {name}"] if stacks > 1 else []
    lines += ["layers: {within: 0..-1, min: 2}"]
    lines += ["count: {low: 1, high: 2}"] if shape.depth >= 8 else []
    lines += ["parts: {choices: [[attention, ffn], [attention], [ffn]]}"]
    lines += ["form: {choices: [tie, {bank: {ratio: {low: 0.3, high: 0.9, step: 0.1}}}]}"]
    return "    - " + "\n      ".join(lines) + "\n"


def _beside(given: str, out: Path) -> str:
    """A path as it is written in `out`; a hub name as it is."""
    if not Path(given).exists():
        return given
    path = os.path.relpath(Path(given).resolve(), out.resolve().parent)
    path = path if "/" in path or "." in path else f"./{path}"
    return json.dumps(path) if set(path) & set(":#'\"{}[],&*!|>%@`") else path


def _check(text: str, out: Path) -> None:
    """Raises :class:`ConfigError` if what was written is no study."""
    import yaml

    from sharetune.search.config import validate

    validate(yaml.safe_load(text), str(out))
