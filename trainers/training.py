"""Trains one candidate with the library's `Trainer`.

Our own are the loss terms, the parameter groups, the recorded curve, and nothing else.
"""

import math
import tempfile
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from spaces.errors import CandidateFault
from spaces.recipe import Recipe
from trainers.dropout import set_dropout_
from trainers.groups import parameter_groups
from trainers.losses import LOSSES
from trainers.patience import Patience, hold_out
from trainers.schedules import SoftToHard, harden_

CURVE_POINTS = 50


@dataclass
class Curve(TrainerCallback):
    """Records ``[step, loss]`` and ends a training whose loss is no longer a number."""

    points: list[list[float]] = field(default_factory=list)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Called by the Trainer at every logged step."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise CandidateFault(f"the loss is {loss} at step {state.global_step}")
        self.points.append([state.global_step, round(loss, 5)])


class CandidateTrainer(Trainer):
    """A `Trainer` with a recipe's loss terms and parameter groups."""

    def __init__(self, *, recipe: Recipe, model: PreTrainedModel, **kwargs: Any) -> None:
        self.recipe = recipe
        strengths = {key: getattr(recipe, key) for key in LOSSES}
        self.terms = [LOSSES[key](model, value) for key, value in strengths.items() if value > 0]
        super().__init__(model=model, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kw: Any) -> Any:
        """The task's loss plus the recipe's terms."""
        if not self.terms or not model.training:
            return super().compute_loss(model, inputs, *args, **kw)
        wants_outputs = kw.pop("return_outputs", False)
        loss, outputs = super().compute_loss(model, inputs, *args, return_outputs=True, **kw)
        for term in self.terms:
            loss = loss + term()
        return (loss, outputs) if wants_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the recipe's parameter groups."""
        groups = parameter_groups(model or self.model, self.recipe)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, fused=True)
        return self.optimizer


def train(
    model: PreTrainedModel, recipe: Recipe, *, data: Any, collate: Any, total_steps: int
) -> list[list[float]]:
    """Trains `model` in place on `data` and returns its curve: ``[[step, loss], ...]``.

    `total_steps` is the number of optimiser steps. Raises :class:`CandidateFault` if the loss
    is not finite or memory runs out.
    """
    curve = Curve()
    patience: list[TrainerCallback] = []
    if recipe.patience is not None and len(data) > 1:
        data, held_out = hold_out(data)
        patience.append(Patience(recipe.patience, held_out, collate))
    if recipe.dropout is not None:
        set_dropout_(model, recipe.dropout)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = CandidateTrainer(
            recipe=recipe,
            model=model,
            args=arguments(recipe, scratch, total_steps),
            train_dataset=data,
            data_collator=collate,
            callbacks=[curve, *_schedule(recipe), *patience],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise CandidateFault(f"out of memory: {error}") from error
    harden_(model)
    return curve.points


def _schedule(recipe: Recipe) -> list[TrainerCallback]:
    return [SoftToHard(recipe.soften_until)] if recipe.soften else []


def arguments(recipe: Recipe, scratch: str, total_steps: int) -> TrainingArguments:
    """The Trainer's settings for this recipe. Nothing is written but into `scratch`."""
    return TrainingArguments(
        output_dir=scratch,
        max_steps=total_steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing_factor=recipe.label_smoothing,
        warmup_steps=round(recipe.warmup_ratio * total_steps),
        seed=recipe.seed,
        logging_steps=max(1, total_steps // CURVE_POINTS),
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def optimiser_steps(recipe: Recipe, examples: int) -> int:
    """Steps of a training: the recipe's own, or its epochs over so many examples."""
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None
    return max(1, math.ceil(recipe.epochs * math.ceil(examples / recipe.batch_size)))


def predict(model: PreTrainedModel, *, data: Any, collate: Any, batch_size: int = 32) -> Tensor:
    """Logits of `model` over `data`, in order: (examples, ...). The model is left in eval mode."""
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size, collate_fn=collate)
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        batches = [{key: value.to(device) for key, value in batch.items()} for batch in loader]
        return torch.cat([model(**batch).logits.float().cpu() for batch in batches])
