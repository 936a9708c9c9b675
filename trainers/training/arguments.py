"""Translate a recipe into the settings of the library's `Trainer`."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from sharetune.spaces.errors import ConfigError, ModelError
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.training.data_parallel import settings_together

CURVE_POINTS = 50
"""Points of a loss curve: enough to see its shape, little to store for each trial."""

DECAYING = 0.2
"""Fraction of the steps over which warmup-stable-decay falls to 0, as 1 less the square root of its
progress: the best of those tried by Hägele et al. (arXiv 2405.18392)."""

OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adafactor": "adafactor",
    "adamw-8bit": "adamw_bnb_8bit",
}
"""The library's names of optimisers, by ours."""

SCHEDULERS = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "warmup-stable-decay": "warmup_stable_decay",
}
"""The library's names of schedulers, by ours."""


def arguments(
    recipe: Recipe, scratch: str, total_steps: int, accumulation: int = 1
) -> TrainingArguments:
    """Return the Trainer's settings for this recipe. Files are written only into `scratch`."""
    warmup, precision = round(recipe.warmup_ratio * total_steps), used_precision(recipe)
    settings = TrainingArguments(
        output_dir=scratch,
        max_steps=total_steps,
        per_device_train_batch_size=recipe.batch_size // accumulation,
        gradient_accumulation_steps=accumulation,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        optim=OPTIMIZERS[recipe.optimizer],
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        lr_scheduler_type=SCHEDULERS[recipe.scheduler],
        lr_scheduler_kwargs=_decay(recipe, total_steps - warmup, total_steps),
        label_smoothing_factor=recipe.label_smoothing,
        warmup_steps=warmup,
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=max(1, total_steps // CURVE_POINTS),
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=recipe.distill is None,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        **settings_together(),
    )
    settings._n_gpu = min(1, settings.n_gpu)  # the library would give each GPU a whole batch
    return settings


def _decay(recipe: Recipe, most: int, total_steps: int) -> dict[str, Any] | None:
    if recipe.scheduler != "warmup-stable-decay":
        return None
    return {"num_decay_steps": min(most, round(DECAYING * total_steps)), "decay_type": "1-sqrt"}


def used_precision(recipe: Recipe) -> str:
    """Return the format that the recipe's products are computed in on this machine's device.

    Raises :class:`ConfigError` for float16 without a GPU.
    """
    has_gpu = torch.cuda.is_available()
    if recipe.precision == "float16" and not has_gpu:
        raise ConfigError(
            "precision float16 needs a GPU, and this process has none",
            "write precision: auto, or bfloat16, which processors compute with too",
        )
    if recipe.precision != "auto":
        return recipe.precision
    fast = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def refuse_untrainable(recipe: Recipe, skeleton: PreTrainedModel) -> None:
    """Raise :class:`SharetuneError` for a recipe that the model or this installation cannot do."""
    if recipe.optimizer == "adamw-8bit" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "optimizer adamw-8bit needs the package bitsandbytes",
            "pip install 'sharetune[bitsandbytes]', or write optimizer: adafactor, whose state is "
            "smaller still",
        )
    if recipe.trains == "adapters" and find_spec("peft") is None:
        raise ConfigError(
            "trains: adapters needs the package peft",
            "pip install 'sharetune[peft]', or write trains: shared",
        )
    if recipe.gradient_checkpointing and not skeleton.supports_gradient_checkpointing:
        raise ModelError(
            f"{type(skeleton).__name__} cannot recompute its layers",
            "leave out recipe.gradient_checkpointing, and set recipe.micro_batch to save memory",
        )


@contextmanager
def trained_in_place(model: PreTrainedModel, recipe: Recipe) -> Iterator[None]:
    """Recompute layers inside, if `recipe` says so, and undo at the end all but trained weights.

    The library's training leaves autocast around the forward pass.
    """
    own = vars(model).get("forward")
    if recipe.gradient_checkpointing:
        _switch(model, "enable")({"use_reentrant": False})
    try:
        yield
    finally:
        for name in ("forward", "_original_forward"):
            vars(model).pop(name, None)
        if own is not None:
            model.forward = own
        if recipe.gradient_checkpointing:
            _switch(model, "disable")()
            model.disable_input_require_grads()


def _switch(model: PreTrainedModel, what: str) -> Any:
    """Return the library's method that begins or ends the recomputing, under its newest name."""
    older = getattr(model, f"gradient_checkpointing_{what}")
    return getattr(model, f"activation_checkpointing_{what}", older)
