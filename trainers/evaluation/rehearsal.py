"""Try one batch before a study is made, so that what every trial would run into is found first."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset
from torch.utils.data import Subset

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.errors import CandidateFault, ModelError, OutOfMemory, SharetuneError
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.data.reader_fit import vocabulary_size
from sharetune.trainers.tasks.base import PreparedTask, Split
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.trainer import TrainingInputs, memory_watched, train

PREDICTED = 2
"""Examples that are predicted: one that fills the batch, and one that is padded."""

BEYOND_A_BATCH: dict[str, Any] = {"patience": None, "start": None, "soften": None, "augment": None}
"""Parts of a recipe that one batch of the unshared model does not meet."""

TOKENS = "input_ids"
"""The column of rows that holds token ids."""


def rehearse(task: PreparedTask, recipe: Recipe) -> None:
    """Train the unshared model on one batch as `recipe` says, and predict with it; keep nothing.

    The batch has the longest examples. A teacher is one that has not been fine-tuned. Raises
    :class:`SharetuneError` for whatever fails.
    """
    recipe = recipe.model_copy(update=BEYOND_A_BATCH)
    split, judged = task.splits(recipe.max_length, None)
    with _failures_explained():
        for rows in (split.rows, judged.rows):
            _refuse_unknown_ids(rows, task)
        model, lesson = task.load(), _lesson(task, recipe)
        batch = _longest(split, recipe.batch_size)
        inputs = TrainingInputs(batch.rows, batch.collate, total_steps=1, lesson=lesson)
        with memory_watched():
            train(model, recipe, inputs)
            task.task.predict(model, _longest(judged, PREDICTED))


def _lesson(task: PreparedTask, recipe: Recipe) -> Lesson | None:
    if recipe.distill is None:
        return None
    name = recipe.distill.teacher
    teacher = task.load(None if name == UNSHARED else name).eval()
    return Lesson(teacher, counted=task.task.counted)


def _longest(split: Split, count: int) -> Split:
    """Return the `count` examples of a split that have the most tokens, or its first ones."""
    rows, numbers = split.rows, list(range(len(split.rows)))
    if not isinstance(rows, Dataset):
        return replace(split, rows=Subset(rows, numbers[:count]), labels=split.labels[:count])
    if TOKENS in rows.column_names:
        lengths = pc.list_value_length(rows.data.column(TOKENS)).to_pylist()
        numbers.sort(key=lambda i: -lengths[i])
    chosen = numbers[:count]
    labels = [split.labels[i] for i in chosen] if len(split.labels) else []
    return replace(split, rows=rows.select(chosen), labels=labels)


def _refuse_unknown_ids(rows: Any, task: PreparedTask) -> None:
    """Raise :class:`ModelError` for a token id that the model does not embed."""
    size = vocabulary_size(task.skeleton.config)
    if size is None or not isinstance(rows, Dataset) or TOKENS not in rows.column_names:
        return
    largest = pc.max(pc.list_flatten(rows.data.column(TOKENS))).as_py()
    if largest is not None and largest >= size:
        raise ModelError(
            f"the examples have the token {largest}, and the model embeds {size:,}",
            "use the tokenizer that the model was trained with, or resize its embeddings",
        )


@contextmanager
def _failures_explained() -> Iterator[None]:
    try:
        yield
    except OutOfMemory:
        return  # workers have memory of their own, and train in parts where it runs out
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
