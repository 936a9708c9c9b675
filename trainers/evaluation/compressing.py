"""Compress a candidate's model between its training and its measurement."""

from collections.abc import Iterable, Mapping

from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.recipe import Candidate
from sharetune.trainers.compression.steps import finish_, prune_
from sharetune.trainers.tasks.base import Split
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.trainer import train


def compress_(
    model: PreTrainedModel,
    candidate: Candidate,
    split: Split,
    lesson: Lesson | None,
    further_steps: int,
    batches: Iterable[Mapping[str, Tensor]],
    accumulation: int = 1,
) -> list[list[float]]:
    """Prune, train on for `further_steps` and quantise `model` in place, as far as the
    candidate asks; returns the further training's curve. `batches` of labelled training examples
    tell which units matter; the further training's are made of `accumulation` parts."""
    compression, recipe = candidate.compression, candidate.recipe.after_pruning()
    here = [{k: v.to(model.device) for k, v in batch.items()} for batch in batches]
    keepers = prune_(model, compression, here)
    curve = []
    if further_steps:
        curve = train(
            model,
            recipe,
            data=split.rows,
            collate=split.collate,
            total_steps=further_steps,
            lesson=lesson if recipe.distill is not None else None,
            callbacks=keepers,
            accumulation=accumulation,
        )
    finish_(model, compression)
    return curve
