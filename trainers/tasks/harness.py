"""Measure a language model in memory by tasks of lm-evaluation-harness.

>>> harness = Harness(HarnessSettings(include="tasks"), ("capitals",))        # doctest: +SKIP
>>> metrics, details = harness.measure(model, tokenizer)                      # doctest: +SKIP
"""

import hashlib
import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.evaluator import Metrics
from sharetune.spaces.harness import PREFIX, HarnessSettings
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.spaces.paths import expanded
from sharetune.spaces.registry import did_you_mean

FRACTIONS = ("acc", "acc_norm", "acc_bytes", "exact_match", "f1", "em")
"""Metrics of the harness that lie in 0..1 and are shown in percent."""

HUNDREDS = ("bleu", "chrf")
"""Metrics of the harness that lie in 0..100, more being better."""


@dataclass(frozen=True)
class Harness:
    """Tasks that models are measured by; `numbers` are ``TASK`` or ``TASK:METRIC``.

    With `at_rungs` a training is measured by them on its way too.
    """

    settings: HarnessSettings
    numbers: tuple[str, ...]
    at_rungs: bool = False

    def measure(self, model: PreTrainedModel, tokenizer: Any) -> tuple[Metrics, dict[str, Any]]:
        """Return the numbers by objective name, and what they depend on.

        That is the harness's version, the batch size, the limit, and of each task its version, its
        solved examples, the hash of all its requests and every number it gives. The model is left
        in eval mode, random generators as they were. Raises :class:`ConfigError` for a metric that
        a task does not have.
        """
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        tasks = list(dict.fromkeys(_task(number) for number in self.numbers))
        with _aside():
            wrapped = HFLM(model, tokenizer=tokenizer, batch_size=self.settings.batch_size)
            found = lm_eval.simple_evaluate(
                wrapped,
                tasks=tasks,
                num_fewshot=self.settings.num_fewshot,
                limit=self.settings.limit,
                bootstrap_iters=0,
                task_manager=_manager(self.settings.include, tuple(tasks)),
            )
        metrics = {PREFIX + n: _value(n, found["results"][_task(n)]) for n in self.numbers}
        return metrics, {
            "version": lm_eval.__version__,
            "batch_size": self.settings.batch_size,
            "limit": self.settings.limit,
            "tasks": {task: _details(found, task) for task in found["results"]},
        }


def register_numbers(settings: HarnessSettings, numbers: Sequence[str]) -> None:
    """Register the objectives that `numbers` are, as the tasks' own files have their direction.

    Raises :class:`ConfigError` for an unknown task or metric, a task that cannot be loaded, and
    without the harness.
    """
    for number in numbers:
        if PREFIX + number not in OBJECTIVES:
            OBJECTIVES.register(PREFIX + number)(_objective(settings, number))


def _objective(settings: HarnessSettings, number: str) -> Objective:
    better = _higher_is_better(settings.include, _task(number))
    metric = _metric(number) or next(iter(better))
    if metric not in better:
        raise ConfigError(
            f"the task {_task(number)} of lm-evaluation-harness has no metric {metric!r}",
            did_you_mean(metric, list(better)),
        )
    title = f"{_task(number)} {metric}"
    if metric in FRACTIONS:
        return Objective(
            PREFIX + number, title, "maximize", source="trained", point=0.01, in_percent=True
        )
    if metric in HUNDREDS:
        return Objective(
            PREFIX + number, title, "maximize", source="trained", best=100.0, point=1.0
        )
    if better[metric]:
        return Objective(PREFIX + number, title, "maximize", source="trained")
    return Objective(PREFIX + number, title, "minimize", source="trained", worst=1000.0)


@lru_cache(maxsize=64)
def _higher_is_better(include: str | None, task: str) -> Mapping[str, bool]:
    """Return, for each metric of a task, whether more is better; of a group, of its first task."""
    manager = _manager(include, (task,))
    if task not in manager.all_tasks:
        near = get_close_matches(task, manager.all_tasks, n=1)
        raise ConfigError(
            f"lm-evaluation-harness has no task {task!r}",
            f"{f'did you mean {near[0]!r}? ' if near else ''}`lm_eval ls tasks` lists its own; "
            "lm_eval.include names a folder of others",
        )
    try:
        with _aside():
            loaded = manager.load([task])["tasks"]
    except Exception as error:  # a task file's own, of any class, and those of `datasets`
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the task {task} of lm-evaluation-harness cannot be loaded: {text}",
            "its data must be on this machine, or be reached; see its file",
        ) from error
    return dict(next(iter(loaded.values())).higher_is_better())


@lru_cache(maxsize=8)
def _manager(include: str | None, tasks: tuple[str, ...]) -> Any:
    """Return the harness's index of tasks: of a folder alone where that has all, else its own too.

    Its own are thousands of files, which take long to read.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(
            f"tasks of lm-evaluation-harness need lm_eval: {error}",
            "pip install 'sharetune[lm-eval]'",
        ) from error
    folder = None if include is None else expanded(include)
    if folder is not None:
        alone = TaskManager(include_path=folder, include_defaults=False)
        if set(tasks) <= set(alone.all_tasks):
            return alone
    return _whole_manager(folder)


@lru_cache(maxsize=2)
def _whole_manager(folder: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


def _task(number: str) -> str:
    return number.partition(":")[0]


def _metric(number: str) -> str:
    return number.partition(":")[2]


def _value(number: str, results: Mapping[str, Any]) -> float:
    """Return the asked metric, else the task's first, of ``{"METRIC,FILTER": value, ...}``."""
    values = {key: value for key, value in results.items() if _is_number(key, value)}
    wanted = _metric(number)
    for key, value in values.items():
        if not wanted or wanted in (key, key.partition(",")[0]):
            return float(value)
    raise ConfigError(
        f"the task {_task(number)} of lm-evaluation-harness gave no number {wanted or 'at all'}",
        f"it gives {', '.join(values) or 'none'}",
    )


def _is_number(key: str, value: object) -> bool:
    return "," in key and "_stderr" not in key and isinstance(value, int | float)


def _details(found: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return what the numbers of one task depend on, and all of them."""
    results = found["results"][task]
    return {
        "version": found["versions"].get(task),
        "num_fewshot": found["n-shot"].get(task),
        "hash": _hash(found["samples"].get(task, ())),
        "numbers": {key: float(v) for key, v in results.items() if _is_number(key, v)},
    }


def _hash(samples: Sequence[Mapping[str, str]]) -> str | None:
    """Return the hash of a task's examples and prompts that the harness's own command writes."""
    if not samples:
        return None  # of a group: its tasks have theirs
    text = "".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _aside() -> Iterator[None]:
    """Keep bars and warnings of the harness off the terminal, and chance as it was before."""
    python, numbers = random.getstate(), np.random.get_state()
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(), redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
        random.setstate(python)
        np.random.set_state(numbers)
