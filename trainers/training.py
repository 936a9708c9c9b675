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

from spaces.errors import CandidateFault, OutOfMemory
from spaces.recipe import Recipe
from trainers.losses import LOSSES
from trainers.schedules import SoftToHard, harden_
from trainers.structure import find_stacks

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

    def __init__(self, *, recipe: Recipe, kept_top: set[str], **kwargs: Any) -> None:
        self.recipe = recipe
        self.kept_top = kept_top
        self.terms = {key: getattr(recipe, key) for key in LOSSES if getattr(recipe, key) > 0}
        super().__init__(**kwargs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kw: Any) -> Any:
        """The task's loss plus the recipe's terms."""
        if not self.terms or not model.training:
            return super().compute_loss(model, inputs, *args, **kw)
        wants_outputs = kw.pop("return_outputs", False)
        loss, outputs = super().compute_loss(model, inputs, *args, return_outputs=True, **kw)
        for key, strength in self.terms.items():
            loss = loss + LOSSES[key](model, strength)
        return (loss, outputs) if wants_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the recipe's parameter groups."""
        groups = parameter_groups(model or self.model, self.recipe, self.kept_top)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, fused=True)
        return self.optimizer


def parameter_groups(model: nn.Module, recipe: Recipe, kept_top: set[str]) -> list[dict[str, Any]]:
    """Optimiser groups: matrices decay and vectors do not; names in `kept_top` learn slower."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in kept_top, parameter.dim() > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate * (recipe.kept_top_lr_scale if kept else 1.0),
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (kept, decays), parameters in groups.items()
    ]


def top_parameters(model: PreTrainedModel, k: int) -> set[str]:
    """Names of the parameters of the top `k` layers of each stack."""
    names = set()
    for stack in find_stacks(model).values() if k else ():
        depth = len(stack.layers)
        for index in range(max(0, depth - k), depth):
            prefix = f"{stack.path}.{index}."
            names |= {prefix + name for name, _ in stack.layers[index].named_parameters()}
    return names


def train(
    model: PreTrainedModel,
    recipe: Recipe,
    *,
    data: Any,
    collate: Any,
    total_steps: int,
    rungs: TrainerCallback | None = None,
    accumulation: int = 1,
) -> list[list[float]]:
    """Trains `model` in place on `data` and returns its curve: ``[[step, loss], ...]``.

    `total_steps` is the number of optimiser steps; `rungs` measures on the way (see
    :class:`trainers.rungs.Rungs`). A batch is made of `accumulation` equal parts, which must
    divide it. Raises :class:`CandidateFault` if the loss is not finite, :class:`OutOfMemory` if
    memory runs out.
    """
    curve = Curve()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = CandidateTrainer(
            recipe=recipe,
            kept_top=top_parameters(model, recipe.kept_top),
            model=model,
            args=arguments(recipe, scratch, total_steps, accumulation),
            train_dataset=data,
            data_collator=collate,
            callbacks=[curve, *_schedule(recipe), *([rungs] if rungs else [])],
        )
        # A model's loss is the mean over its part of the batch: the Trainer shall divide by the
        # parts, which it leaves to models that take `num_items_in_batch` and ignore it.
        trainer.model_accepts_loss_kwargs = False
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise OutOfMemory(f"out of memory: {error}") from error
    harden_(model)
    return curve.points


def _is_out_of_memory(error: Exception) -> bool:
    """On the GPU, or on the host, where PyTorch's allocator raises a plain ``RuntimeError``."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)


def _schedule(recipe: Recipe) -> list[TrainerCallback]:
    return [SoftToHard(recipe.soften_until)] if recipe.soften else []


def arguments(
    recipe: Recipe, scratch: str, total_steps: int, accumulation: int = 1
) -> TrainingArguments:
    """The Trainer's settings for this recipe. Nothing is written but into `scratch`."""
    return TrainingArguments(
        output_dir=scratch,
        max_steps=total_steps,
        per_device_train_batch_size=recipe.batch_size // accumulation,
        gradient_accumulation_steps=accumulation,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
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
    """Logits of `model` over `data`, in order: (examples, ...). The model is left in eval mode.

    The random generators are left as they were: a loader without one of its own draws a seed.
    """
    loader = torch.utils.data.DataLoader(
        data, batch_size=batch_size, collate_fn=collate, generator=torch.Generator()
    )
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        batches = [{key: value.to(device) for key, value in batch.items()} for batch in loader]
        return torch.cat([model(**batch).logits.float().cpu() for batch in batches])
