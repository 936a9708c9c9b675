"""Compress a candidate's model between its training and its measurement."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.recipe import Candidate
from sharetune.trainers.compression.steps import finish_, prune_
from sharetune.trainers.training.trainer import TrainingInputs, train


def compress_(
    model: PreTrainedModel,
    candidate: Candidate,
    batches: Iterable[Mapping[str, Tensor]],
    further: TrainingInputs,
) -> list[list[float]]:
    """Prune, train on with the inputs `further` and quantise `model` in place, as far as the
    candidate asks; returns the further training's curve. `batches` of labelled training examples
    tell which units matter."""
    compression, recipe = candidate.compression, candidate.recipe.after_pruning()
    here = [{k: v.to(model.device) for k, v in batch.items()} for batch in batches]
    keepers = prune_(model, compression, here)
    curve = []
    if further.total_steps:
        lesson = further.lesson if recipe.distill is not None else None
        curve = train(model, recipe, replace(further, lesson=lesson, callbacks=keepers))
    finish_(model, compression)
    return curve
