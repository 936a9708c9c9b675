"""Try a batch before a study is made: what every trial would run into is found first, and how long
trials take."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.compute as pc  # type: ignore[import-untyped]
import torch
from datasets import Dataset
from torch.utils.data import Subset
from transformers import PreTrainedModel

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.errors import CandidateFault, ModelError, OutOfMemory, SharetuneError
from sharetune.spaces.pace import Pace
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.data.lengths import CHECKED, TOKENS, has_tokens, longest
from sharetune.trainers.data.reader_fit import vocabulary_size
from sharetune.trainers.measuring.memory import memory_held
from sharetune.trainers.tasks.base import PreparedTask, Split
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.heartbeat import Heart
from sharetune.trainers.training.trainer import TrainingInputs, memory_watched, train

PREDICTED = 2
"""Examples that are predicted: one that fills the batch, and one that is padded."""

SLOW_S = 20.0
"""Seconds of a first step from which on a second one, without a start's costs, says no more."""

TIMED = 16
"""Examples whose predictions are timed."""

BEYOND_A_BATCH: dict[str, Any] = {
    **{"patience": None, "start": None, "soften": None, "augment": None},
    "learning_rate": 0.0,
}
"""Parts of a recipe that a batch of the unshared model does not meet; and a learning rate that
leaves its weights as they are, since a large one, without a warm-up, could ruin them."""


def rehearse(task: PreparedTask, recipe: Recipe) -> Pace | None:
    """Train the unshared model for two steps as `recipe` says, and predict with it; keep nothing.

    The first batch has the longest examples; the second one's step, and predictions, are timed.
    Where the first step is slow it is the only one. A teacher is one that has not been fine-tuned.
    Returns None if memory ran out, since workers have memory of their own, and train in parts where
    it does. Raises :class:`SharetuneError` for whatever else fails.
    """
    recipe = recipe.model_copy(update=BEYOND_A_BATCH)
    split, judged = task.splits(recipe.max_length, None)
    with _failures_explained():
        for rows in (split.rows, judged.rows):
            _refuse_unknown_ids(rows, task)
        try:
            return _measured(task, recipe, split, judged)
        except OutOfMemory:
            return None


def _measured(task: PreparedTask, recipe: Recipe, split: Split, judged: Split) -> Pace:
    began = time.perf_counter()
    model = task.load()
    task.task.refuse_model(model)
    load_s = time.perf_counter() - began
    lesson, watch = _lesson(task, recipe), _Stopwatch()
    held = memory_held(model.device) + trained_bytes(model)
    for batch in (_longest(split, recipe.batch_size), _first(split, recipe.batch_size)):
        if watch.seconds > SLOW_S:
            break
        inputs = TrainingInputs(
            batch.rows, batch.collate, total_steps=1, lesson=lesson, callbacks=[Heart(watch.beat)]
        )
        with memory_watched():
            train(model, recipe, inputs)
    task.task.predict(model, _longest(judged, PREDICTED))
    some = _first(judged, TIMED)
    began = time.perf_counter()
    with memory_watched():
        task.task.predict(model, some)
    judge_s = (time.perf_counter() - began) / len(some.rows)
    gpus = torch.cuda.device_count() if model.device.type == "cuda" else 0
    gpu_memory = torch.cuda.mem_get_info(model.device)[1] if gpus else 0
    return Pace(
        load_s,
        watch.seconds,
        judge_s,
        _most_memory(),
        held,
        gpus,
        gpu_memory,
        examples=len(split.rows),
        judged=len(judged.rows),
    )


def trained_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of gradients and of AdamW's two moments."""
    return 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


@dataclass
class _Stopwatch:
    """Times the last step of a training."""

    seconds: float = 0.0
    began: float = 0.0

    def beat(self, in_step: bool) -> None:
        now = time.perf_counter()
        if in_step:
            self.began = now
        else:
            self.seconds = now - self.began


def _most_memory() -> int:
    """Return the most bytes that this process has held, or of its GPU if it has one.

    Of a GPU they are those that PyTorch has reserved, which no other process can use.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _lesson(task: PreparedTask, recipe: Recipe) -> Lesson | None:
    if recipe.distill is None:
        return None
    name = recipe.distill.teacher
    teacher = task.load(None if name == UNSHARED else name).eval()
    return Lesson(teacher, counted=task.task.counted)


def _longest(split: Split, count: int) -> Split:
    """Return the `count` examples of a split that have the most tokens, or its first ones."""
    return _chosen(split, longest(split.rows, count))


def _first(split: Split, count: int) -> Split:
    return _chosen(split, list(range(min(count, len(split.rows)))))


def _chosen(split: Split, numbers: list[int]) -> Split:
    """Return the examples of these numbers."""
    rows = split.rows
    some = rows.select(numbers) if isinstance(rows, Dataset) else Subset(rows, numbers)
    labels = [split.labels[i] for i in numbers] if len(split.labels) else []
    return replace(split, rows=some, labels=labels)


def _refuse_unknown_ids(rows: Any, task: PreparedTask) -> None:
    """Raise :class:`ModelError` for a token id that the model does not embed."""
    size = vocabulary_size(task.skeleton.config)
    if size is None or not has_tokens(rows):
        return
    largest = pc.max(pc.list_flatten(rows.data.column(TOKENS).slice(0, CHECKED))).as_py()
    if largest is not None and largest >= size:
        raise ModelError(
            f"the examples have the token {largest}, and the model embeds {size:,}",
            "use the tokenizer that the model was trained with, or resize its embeddings",
        )


@contextmanager
def _failures_explained() -> Iterator[None]:
    try:
        yield
    except CandidateFault as error:
        raise ModelError(
            f"the unshared model cannot be trained: {error}", "set recipe.learning_rate lower"
        ) from error
    except SharetuneError:
        raise
    except Exception as error:  # the library's and the model's own, of any class
        text = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"the first batch cannot be trained on: {type(error).__name__}: {text}",
            "the model, its tokenizer or processor, the data and recipe.max_length must fit",
        ) from error
