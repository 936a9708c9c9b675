"""Write a study file that works unchanged, after looking at the model and the data."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sharetune.search.commands.plain_checks import refuse_wrong_task
from sharetune.spaces.errors import ConfigError, ModelError, RunError
from sharetune.spaces.pace import Pace
from sharetune.spaces.paths import require_model
from sharetune.spaces.run_folder import RunFolder
from sharetune.spaces.stack_shape import StackShape

if TYPE_CHECKING:
    from sharetune.search.config import StudyConfig
    from sharetune.search.live import Live
    from sharetune.spaces.evaluator import Evaluator
    from sharetune.trainers.tasks.base import Task

TRIALS = 24
"""Trials of a first study: a front with a few sizes, without a long wait."""

LEAST_TRIALS, MOST_TRIALS = 10, 100
"""Trials that a study of given hours has: fewer show no front, and more add little."""

BATCH = 16
"""Examples of a training batch: fits small GPUs and laptops."""

LEAST_BATCH = 4
"""Examples of a batch where time is so short that larger ones would leave few steps."""

LEAST_STEPS = 20
"""Steps of a trial below which batches are made smaller."""

TRAINED = 0.6
"""Part of given hours that trainings may take, by the rehearsal: the rest is for scoring, latency,
and for workers that slow one another down."""

ROUNDS, LEAST_ROUNDS = 20, 3
"""Rounds of a latency measurement: for intervals of a few per cent, and for any interval at all."""

TIMED = 0.05
"""Part of given hours that these rounds may take."""

MODELS, FORMS = 8, 3
"""Models that are timed after a search, about, and the forms in which each is used in a round."""


@dataclass(frozen=True)
class Length:
    """How long a trial trains: `epochs`, within `least` and `most` optimiser steps."""

    epochs: int
    least: int
    most: int

    def steps(self, rows: int) -> int:
        """Return the steps for a number of training examples."""
        return min(self.most, max(self.least, self.epochs * rows // BATCH))


FINE_TUNING = Length(3, 50, 1000)
"""Usual for fine-tuning; a large data set must not make trials long, nor a small one too short."""

SCRATCH = Length(12, 400, 4000)
"""From random weights. At 3 epochs the unshared model was still learning, and shallow models were
ahead only because they learn sooner."""

FINE_TUNED = {
    "start": "fine-tuned",
    "rate": "{low: 1.0e-5, high: 3.0e-4, log: true}",
    "anchors": "",
    "rule": "",
}
"""Texts of a study whose model is pretrained: the usual range of learning rates, and no more."""

FROM_SCRATCH = {
    "start": "trained from scratch",
    "rate": "{low: 5.0e-4, high: 5.0e-3, log: true}",
    "anchors": "anchors: [unshared, tied, drop-to-one, drop-third, drop-half]\n",
    "rule": "    bank_lr_rule: sqrt\n",
}
"""The same from random weights. They need larger rates, at which tied layers may learn nothing, and
one layer alone is the rival that is as small as all layers tied."""

MEASURED, LEAST_JUDGED = 0.25, 50
"""Part of a trial's time that measuring may take where hours are few; and examples below which no
test split is brought for it, as their numbers have wide intervals."""

A_FIFTH = f"{'':34}# without test: a fifth of the training examples is held out\n"
"""A task's line in place of a test file."""

A_PART = "  test: {part:<26g}# the fraction of the training examples that is held out\n"
"""The same where measuring on a fifth would take most of a trial."""

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
budget: {{{budget}}}               # anchors and plans included
{anchors}
plans:                            # tried right after the anchors
{plans}
space:
  plan:
{groups}
  recipe:
    learning_rate: {rate}
{rule}    steps: {steps}                    # {epochs:.1f} epochs
    warmup_ratio: 0.1
    batch_size: {batch}
    max_length: {length}               # {unit}

latency: {{rounds: {rounds}}}             # measured after the trials, on the front and the anchors
# finalists: {{seeds: 3}}           # then trains these again on three further seeds; with
#                                 # validation: 0.2 in task, only they see the test split
"""


@dataclass(frozen=True)
class Size:
    """How much a study trains: `trials` of `steps` optimiser steps, `batch` examples each."""

    trials: int
    steps: int
    batch: int = BATCH
    rounds: int = ROUNDS

    def fitting(self, hours: float, pace: Pace, workers: int) -> "Size":
        """Return a size that takes at most about `hours`, by the `pace` of batches as they are.

        Short time has few trials first, then few steps, then small batches, and few rounds of
        latency. Raises :class:`ConfigError` for hours in which ten trials train nothing.
        """
        a_step, besides = pace.step_s, pace.besides_s
        seconds = TRAINED * 3600 * hours * workers
        steps, batch = (seconds / LEAST_TRIALS - besides) / a_step, self.batch
        while steps < min(LEAST_STEPS, self.steps) and batch > LEAST_BATCH:
            steps, a_step, batch = 2 * steps, a_step / 2, batch // 2
        if steps < 1:
            least = LEAST_TRIALS * (besides + a_step * LEAST_STEPS) / (TRAINED * 3600 * workers)
            raise ConfigError(
                f"{LEAST_TRIALS} trials take more than {hours:g} hours on this machine",
                f"give at least {least:.1f} hours, less test data, or a smaller model",
            )
        steps = min(int(steps), self.steps)
        trials = self.trials_in(seconds, besides + steps * a_step)
        rounds = TIMED * 3600 * hours / (MODELS * FORMS * pace.judge_s)
        return Size(trials, steps, batch, max(LEAST_ROUNDS, min(self.rounds, int(rounds))))

    @staticmethod
    def trials_in(seconds: float, each: float) -> int:
        """Return the trials of `each` seconds that fit into `seconds` of trainings: 1 to 100."""
        return max(1, min(MOST_TRIALS, int(seconds / each)))


def judged_in(hours: float, pace: Pace, workers: int) -> int:
    """Return the examples that each of ten trials can be measured on in `hours`, at most all.

    That takes at most a quarter of a trial, unless fewer than fifty examples would be left.
    """
    a_trial = TRAINED * 3600 * hours * workers / LEAST_TRIALS
    most = max(LEAST_JUDGED, int(MEASURED * a_trial / pace.judge_s))
    return min(pace.judged, most)


@dataclass(frozen=True)
class Proposal:
    """A first study: its `fields` but for its `size`; of `examples` for training.

    With `a_fifth` it tests on as much of its training data, since it has no other.
    """

    fields: Mapping[str, str]
    size: Size
    examples: int
    hours: float | None = None
    a_fifth: bool = False

    def too_short(self) -> Iterator[str]:
        """Yield a warning if hours are so few that a trial does not see every example once."""
        seen = self.size.steps * self.size.batch
        if self.hours is not None and seen < self.examples and self.size.steps < FINE_TUNING.least:
            enough = self.hours * min(self.examples, BATCH * FINE_TUNING.least) / seen
            yield (
                f"warning: a trial sees {seen} of {self.examples} training examples, of which "
                f"models may learn little or nothing; give about {enough:.1g} hours"
            )

    @property
    def text(self) -> str:
        """The study file."""
        size = self.size
        limit = "" if self.hours is None else f", wall_hours: {self.hours:g}"
        return TEMPLATE.format(
            **self.fields,
            budget=f"trials: {size.trials}{limit}",
            steps=size.steps,
            batch=size.batch,
            rounds=size.rounds,
            epochs=size.steps * size.batch / self.examples,
        )


def write_study(
    task: dict[str, str],
    model: str,
    out: Path,
    overrides: tuple[str, ...] = (),
    hours: float | None = None,
) -> tuple[str, str]:
    """Write the study file `out`; return its text and what to expect of its search.

    `task` gives ``name`` and ``train``, and may give ``test``; `overrides` such as
    ``task.pair=question`` set its other keys. Paths in the file are relative to it. With `hours`
    trials and steps are those that fit, by the time that a batch takes here. Raises
    :class:`SharetuneError` for data or a model that does not fit, and :class:`RunError` if there
    is such a file already.
    """
    if out.exists():
        raise RunError(f"{out} exists already", "name another with --out, or remove it")
    keys = _task_keys(overrides)
    refuse_wrong_task(task | keys)
    require_model(model)
    from sharetune.trainers.tasks.base import read_task

    made = read_task(task | keys)
    texts = {"name": out.resolve().parent.name if out.stem == "study" else out.stem}
    texts |= {"model": _beside(model, out), "data": _beside(task["train"], out)}
    texts |= {"test": _beside(task["test"], out)} if "test" in task else {}

    def measured_on(part: float) -> Proposal:
        """Return the proposal of a study that holds out a `part` (0..1) of its training data."""
        return proposal_of(read_task(task | keys | {"test": part}), model, texts, keys)

    proposed = proposal_of(made, model, texts, keys)
    _check(proposed.text, out)
    out.write_text(proposed.text, "utf-8")
    try:
        proposed, expected = _rehearsed(out, proposed, hours, measured_on)
    except BaseException:
        out.unlink()
        raise
    return proposed.text, expected


def proposal_of(
    made: "Task", model: str, texts: Mapping[str, str], keys: Mapping[str, Any]
) -> Proposal:
    """Return a first study of `model` for a task, after looking at its data.

    `texts` say how ``name``, ``model``, ``data`` and, if there is one, ``test`` are written; `keys`
    are further ones of the task. Raises :class:`SharetuneError` for data or a model that does not
    fit.
    """
    from sharetune.search.commands.proposal import proposal
    from sharetune.spaces.layer_text import stacks_text
    from sharetune.trainers.data.new_models import is_configuration_only

    train, held_out, facts = made.read()
    shell = made.skeleton(model, facts)
    shapes = _shapes(shell)
    scratch = is_configuration_only(model)
    if not scratch:
        made.refuse_unread(train, made.reader(model), shell.config)
    tested_on = _test_line(made, texts, keys)
    fields = {
        "rows": f"{len(train)} training and {len(held_out)} test examples",
        "name": texts["name"],
        "model": texts["model"],
        "task": made.name,
        "data": texts["data"],
        "test": tested_on,
        "keys": "".join(f"  {key}: {json.dumps(value)}\n" for key, value in keys.items()),
        "metric": made.metrics[0],
        "others": ", ".join(made.metrics[1:]) or "nothing else",
        **(FROM_SCRATCH if scratch else FINE_TUNED),
        "length": str(made.length(train, shell)),
        "unit": made.unit,
        "stacks": stacks_text({name: shape.depth for name, shape in shapes.items()}),
        **proposal(shell, shapes, scratch=scratch),
    }
    steps = (SCRATCH if scratch else FINE_TUNING).steps(len(train))
    return Proposal(fields, Size(TRIALS, steps), len(train), a_fifth=tested_on == A_FIFTH)


def _test_line(made: "Task", texts: Mapping[str, str], keys: Mapping[str, Any]) -> str:
    """Return the line of a study file that says what its models are tested on."""
    if "test" in texts:
        return f"  test: {texts['test']}\n"
    if isinstance(made.test, float) and "test" not in keys:
        return A_PART.format(part=made.test)
    return A_FIFTH if made.test is None and made.holds_out_rows else ""


def _task_keys(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return the task's keys that `overrides` set. Raises :class:`ConfigError` for others."""
    from sharetune.search.study_file import override

    data: dict[str, Any] = {"task": {}}
    for each in overrides:
        override(data, each)
    if others := [f"{name}" for name in data if name != "task"]:
        raise ConfigError(
            f"init sets keys of task, but got {others[0]}",
            "change the others in the file that it writes",
        )
    return dict(data["task"])


def _shapes(shell: object) -> dict[str, StackShape]:
    from sharetune.trainers.models.structure import stack_shapes

    shapes = {name: shape for name, shape in stack_shapes(shell).items() if shape.depth > 1}
    if not shapes:
        raise ModelError("the model has no two layers that could share", "name a deeper model")
    return shapes


def _beside(given: str, out: Path) -> str:
    """Return a path relative to the folder of `out`; a hub name as it is."""
    if not Path(given).exists() and not glob(given):
        return given
    path = os.path.relpath(Path(given).resolve(), out.resolve().parent)
    path = path if "/" in path or "." in path else f"./{path}"
    return json.dumps(path) if set(path) & set(":#'\"{}[],&*!|>%@`") else path


def _rehearsed(
    out: Path,
    proposed: Proposal,
    hours: float | None,
    measured_on: Callable[[float], Proposal],
) -> tuple[Proposal, str]:
    """Prepare the study that was written, and try its first batch.

    Returns it, written anew with the size that fits into `hours` if they are given, and what to
    expect of it; `measured_on` proposes it with less test data. Raises :class:`SharetuneError` if a
    search of it would.
    """
    from sharetune.search.estimate import expectation
    from sharetune.search.gpus import workers_here
    from sharetune.search.study_file import load_config
    from sharetune.trainers.tasks.base import HELD_OUT

    config = load_config(out)
    with rehearsed(config) as (evaluator, pace):
        if pace is None:
            return proposed, "a batch needs more memory than this process can have"
        workers = workers_here(config, pace)
        share = 1.0 if hours is None else judged_in(hours, pace, workers) / pace.judged
        if share < 1 and proposed.a_fifth:
            part = float(f"{HELD_OUT * share:.2g}")
            proposed, pace = measured_on(part), pace.measured_on(part / HELD_OUT)
        proposed = replace(proposed, examples=pace.examples, hours=hours)
        if hours is not None:
            size = proposed.size.fitting(hours, pace, workers)
            pace = pace.of_batch(size.batch / proposed.size.batch)
            proposed = replace(proposed, size=size)
        out.write_text(proposed.text, "utf-8")
        told = expectation(load_config(out), evaluator, pace, out.parent)
        return proposed, "\n".join([told, *proposed.too_short()])


@contextmanager
def rehearsed(
    config: "StudyConfig", live: "Live | None" = None
) -> Iterator[tuple["Evaluator", Pace | None]]:
    """Prepare a study in a folder that is gone at the end, and try its first batch.

    `live` are functions of the caller that the study names. Yields the evaluator and the pace; None
    where a batch needs more memory than there is. Raises :class:`SharetuneError` if a search would.
    """
    from sharetune.search.starting import NOTHING_LIVE, real_evaluator, reference, refuse_unfit
    from sharetune.spaces.evaluator import JobResources

    with TemporaryDirectory() as scratch:
        evaluator = real_evaluator(config, RunFolder(Path(scratch)), live or NOTHING_LIVE)
        refuse_unfit(config, evaluator)
        resources = JobResources(threads=config.resources.cpu)
        yield evaluator, evaluator.rehearse(reference(config), resources)


def _check(text: str, out: Path) -> None:
    """Raise :class:`ConfigError` if the written text is not a valid study."""
    from sharetune.search.study_file import validate
    from sharetune.spaces.yaml_text import read_yaml

    validate(read_yaml(text), str(out))
