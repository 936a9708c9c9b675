"""Recipes, which say how a candidate is trained, and candidates themselves."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sharetune.spaces.adversaries import AdversaryField
from sharetune.spaces.augmentation import Augmentation
from sharetune.spaces.compression import Compression
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.learning_rates import LRRuleName
from sharetune.spaces.local_start import LocalStart
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.settings import StrictModel
from sharetune.spaces.softening import SOFTENINGS, SofteningName
from sharetune.spaces.stack_shape import StackShape

NOT_SOFTENED: dict[str, Any] = {"soften": None, "soften_until": 0.5, "pull": 0.0}
OF_BANKS = ("bank_l2", "bank_l2_start", "bank_lr_rule", "bank_lr_scale", "soften")
"""Keys of a recipe that have no effect without a bank."""

PLAIN = (
    *("learning_rate", "weight_decay", "warmup_ratio", "dropout", "label_smoothing"),
    *("steps", "epochs", "batch_size", "max_length", "seed"),
    *("precision", "optimizer", "scheduler", "max_grad_norm", "tokens"),
    *("gradient_checkpointing", "micro_batch"),
)
"""Keys of a recipe that an unshared teacher is trained by: those that sharing does not need."""

YOUNG = (
    *("precision", "optimizer", "scheduler", "max_grad_norm", "tokens"),
    *("gradient_checkpointing", "micro_batch", "trains", "adapter_rank"),
)
"""Keys of a recipe that older run folders do not have."""


LENGTHS = ("steps", "epochs", "tokens")
"""Keys that say how long a training is, one of them."""

SEEDS = 2**32
"""Number of seeds that all random generators take: 32 bits."""


class Recipe(StrictModel):
    """Training settings of one candidate; docs/recipes.md explains each one.

    Give one of `steps`, `epochs` and `tokens`; with none, training takes 3 epochs. Factors of the
    learning rate that apply to one parameter multiply.
    """

    learning_rate: float = Field(
        5e-5,
        gt=0,
        description="Peak learning rate, reached after the warm-up; `scheduler` says how it goes "
        "on.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay of every matrix.")
    bank_l2: float = Field(
        0.0,
        ge=0,
        description="Weight λ of the loss term λ/2 · sum ‖B‖² over the shared weights B; 0 is "
        "none.",
    )
    bank_l2_start: float = Field(
        0.0,
        ge=0,
        description="Weight λ of the loss term λ/2 · sum ‖B − B₀‖², with B₀ the shared weights at "
        "the start; 0 is none.",
    )
    bank_lr_rule: LRRuleName = Field(
        "none",
        description="Divisor of a bank's learning rate and weight decay: `readers`, the number of "
        "layers that read it, `sqrt`, the root of that, or `none`.",
    )
    bank_lr_scale: float = Field(1.0, gt=0, description="Factor of the banks' learning rate.")
    head_lr_scale: float = Field(1.0, gt=0, description="Factor of the task head's learning rate.")
    layer_lr_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor of a parameter's learning rate for each layer from its own, included, "
        "to the head; 1 is no decay.",
    )
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Probability of every dropout in the model; `null` keeps the model's own.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability mass of the target that is spread evenly over all labels.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Evaluations without a lower loss after which training ends and returns to the "
        "best weights; a tenth of the training data is held out for them, one every 5 % of the "
        "steps. `null` is off.",
    )
    distill: Distillation | None = Field(
        None, description="Distillation from a teacher; `null` is none."
    )
    adversary: AdversaryField = Field(
        None,
        description="Adversarial perturbation of the embeddings (see adversaries); `null` is none.",
    )
    augment: Augmentation | None = Field(
        None, description="Altered copies of the training examples; `null` is none."
    )
    r_drop: float = Field(
        0.0,
        ge=0,
        description="Weight of the divergence between two passes with different dropout "
        "(R-Drop, arXiv 2106.14448); 0 is none.",
    )
    soften: SofteningName | None = Field(
        None,
        description="Schedule that moves layers from weights of their own to the bank's "
        "(`interpolate`, `replace`, `pull`), or that ties all units first and then frees those the "
        "plan keeps private (`untie`); `null` is none.",
    )
    soften_until: float = Field(
        0.5, gt=0, le=1, description="Fraction of the steps at which that schedule ends."
    )
    pull: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean squared difference between a layer's own weights and the "
        "bank's, while `soften` keeps both.",
    )
    kept_top: int = Field(
        0,
        ge=0,
        description="Layers at the top of each stack that stay private, whatever the plan says.",
    )
    kept_top_lr_scale: float = Field(
        1.0, gt=0, le=1, description="Factor of the learning rate of those `kept_top` layers."
    )
    steps: int | None = Field(
        None, ge=1, description="Optimiser steps of the training; `null`: as `epochs` says."
    )
    epochs: float | None = Field(
        None,
        gt=0,
        description="Passes over the training data; `null`: as `steps` or `tokens` says, or 3 "
        "without them.",
    )
    tokens: int | None = Field(
        None,
        ge=1,
        description="Input tokens of the training, padding left out; the last step is taken whole. "
        "`null`: as `steps` or `epochs` says.",
    )
    warmup_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Fraction of the steps over which the learning rate rises from 0 to its peak.",
    )
    batch_size: int = Field(16, ge=1, description="Examples of one optimiser step.")
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="Examples that pass through the model at once: the largest divisor of "
        "`batch_size` up to this number, or with `auto` up to what free memory allows. Gradients "
        "are those of the whole batch. `null`: all.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Format of the products in training, by autocast; weights and optimiser stay "
        "in float32. `auto` is bfloat16 on a GPU that has it, else float32; float16 needs a GPU.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep only the layers' inputs for the backward pass and compute the rest "
        "again: less memory, more time, equal gradients.",
    )
    trains: Literal["all", "shared", "adapters"] = Field(
        "all",
        description="The weights that are trained: all, or those alone that the plan has made or "
        "changed, or low-rank adapters; and a head that is new. Without such weights nothing is "
        "trained. Adapters are those of a layer's own matrices, merged into them at the end, and "
        "the low-rank matrices that each reader of the form `lowrank` has (package peft).",
    )
    adapter_rank: int = Field(
        8, ge=1, description="Rank of the adapters that are merged, with `trains: adapters`."
    )
    optimizer: Literal["adamw", "adafactor", "adamw-8bit"] = Field(
        "adamw",
        description="AdamW, with two moments in float32; Adafactor, whose moments are a row and a "
        "column; or AdamW with moments in 8 bits (package bitsandbytes).",
    )
    scheduler: Literal["linear", "cosine", "constant", "warmup-stable-decay"] = Field(
        "linear",
        description="Learning rate after the warm-up: it falls linearly or by a half cosine to 0, "
        "stays, or stays and falls to 0 over the last fifth of the steps.",
    )
    max_grad_norm: float = Field(
        1.0,
        ge=0,
        description="Norm of the whole gradient above which it is scaled down to it; 0 is never.",
    )
    max_length: int = Field(
        128,
        ge=4,
        description="Longest input, in tokens (for recordings in samples); longer ones are cut.",
    )
    start: LocalStart | None = Field(
        None,
        description="Local distillation of the plan's new weights before training, done once a "
        "study for each group; null is none.",
    )
    seed: int = Field(
        0, ge=0, lt=SEEDS, description="Seed of the head's start, the data's order and dropout."
    )

    @model_validator(mode="before")
    @classmethod
    def _three_epochs_by_default(cls, data: object) -> Any:
        if isinstance(data, dict) and all(data.get(length) is None for length in LENGTHS):
            return {**data, "epochs": 3.0}
        return data

    @model_validator(mode="after")
    def _one_length(self) -> "Recipe":
        given = [f"{x}={getattr(self, x):g}" for x in LENGTHS if getattr(self, x) is not None]
        if len(given) > 1:
            raise ConfigError(
                f"a recipe has one of steps, epochs and tokens, but got {' and '.join(given)}",
                "keep one of them",
            )
        return self

    @model_validator(mode="after")
    def _start_without_softening(self) -> "Recipe":
        if self.start is not None and self.soften is not None:
            raise ConfigError(
                "weights that start from local distillation are hard from the start, but got "
                f"soften={self.soften}",
                "leave out start, or soften",
            )
        return self

    @model_validator(mode="after")
    def _adapters_without_softening(self) -> "Recipe":
        if self.trains == "adapters" and self.soften is not None:
            raise ConfigError(
                "adapters are of weights that are hard from the start, but got "
                f"soften={self.soften}",
                "leave out soften, or write trains: shared",
            )
        return self

    def after_pruning(self) -> "Recipe":
        """Return the recipe without settings that need layers of equal width.

        Those are the softening schedule, relation distillation and per-layer learning rates.
        """
        distill = self.distill
        if distill is not None:
            distill = distill.model_copy(update={"relations": 0.0}).canonical()
        found = {"soften": None, "kept_top_lr_scale": 1.0, "layer_lr_decay": 1.0}
        return self.model_copy(update=found | {"distill": distill})

    @property
    def has_parts(self) -> bool:
        """Return whether fewer examples than the recipe says may pass through the model at once."""
        return self.batch_size > 1 and self.micro_batch != 1

    def passes(self, examples: int, tokens: float | None = None) -> float:
        """Return the passes over `examples` of a training that is not given in steps.

        `tokens` is the mean number of tokens of an example; None: `max_length`.
        """
        if self.tokens is None:
            return self.epochs or 0.0
        return self.tokens / max(1.0, examples * (self.max_length if tokens is None else tokens))

    def unknown_before(self) -> set[str]:
        """Return the keys of `YOUNG` that are at their defaults.

        Without them the recipe is written as before there were these keys: what older versions
        trained is found again, and seen in the same way.
        """
        fields = type(self).model_fields
        return {key for key in YOUNG if getattr(self, key) == fields[key].default}

    def plain(self) -> "Recipe":
        """Return the recipe of an unshared teacher: without settings that make up for sharing."""
        kept = {key: getattr(self, key) for key in PLAIN}
        return Recipe(**kept)


class Candidate(StrictModel):
    """The proposal for one trial: plan, compression and recipe."""

    plan: SharingPlan = Field(SharingPlan(), description="Which layers share which weights.")
    compression: Compression = Field(
        Compression(), description="Pruning and quantisation after training."
    )
    recipe: Recipe = Field(Recipe(), description="Training settings.")

    def bound(self, stacks: Mapping[str, StackShape]) -> "Candidate":
        """Return the canonical candidate for a model with these stacks.

        Candidates that build the same model and train it in the same way are equal.
        """
        recipe = self.recipe
        inert: dict[str, Any] = {} if recipe.kept_top else {"kept_top_lr_scale": 1.0}
        if isinstance(recipe.micro_batch, int) and recipe.micro_batch >= recipe.batch_size:
            inert["micro_batch"] = None
        if recipe.trains != "adapters":
            inert["adapter_rank"] = Recipe.model_fields["adapter_rank"].default
        plan = self.plan.keeping_top(recipe.kept_top, stacks)
        shares = any(group.form.shares for group in plan.groups)
        if not shares:
            inert |= {key: Recipe.model_fields[key].default for key in OF_BANKS}
        inert |= _inert_softening(recipe, plan, shares=shares)
        if not any(group.learns_locally for group in plan.groups):
            inert["start"] = None
        if recipe.distill is not None:
            inert["distill"] = recipe.distill.canonical()
        if recipe.augment is not None:
            inert["augment"] = recipe.augment.canonical()
        return self.model_copy(
            update={
                "plan": plan,
                "compression": self.compression.canonical(),
                "recipe": recipe.model_copy(update=inert),
            }
        )

    @property
    def unadapted(self) -> str | None:
        """Name what of the candidate cannot be trained by adapters alone; None if nothing.

        A change of one reader has a place only in what is that reader's own, and a quantised or
        pruned matrix is trained on whole.
        """
        if self.recipe.trains != "adapters":
            return None
        forms = (group.form for group in self.plan.groups)
        form = next((form for form in forms if form.shares and not form.adapts), None)
        if form is not None:
            return f"the form {form.name}"
        return "compression.recover" if self.compression.recover else None

    @property
    def unsharded(self) -> str | None:
        """Name what of the training cannot be divided among workers; None if nothing.

        Optimisers but AdamW combine rows and columns of a matrix, or store it in blocks.
        """
        if self.recipe.trains == "adapters":
            return "recipe.trains: adapters"
        if self.recipe.optimizer != "adamw":
            return f"recipe.optimizer: {self.recipe.optimizer}"
        if self.recipe.soften == "replace":
            return "recipe.soften: replace"
        return "compression.recover" if self.compression.recover else None

    def written(self) -> dict[str, Any]:
        """Return the candidate as plain data that ``Candidate.model_validate`` reads."""
        return {
            "plan": self.plan.written(),
            "compression": self.compression.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
        }

    def key(self) -> str:
        """Return a short text that is equal for equal candidates, in this process and any other."""
        text = json.dumps(self.written(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _inert_softening(recipe: Recipe, plan: SharingPlan, *, shares: bool) -> dict[str, Any]:
    """Return the defaults of those softening settings that have no effect on this plan."""
    if recipe.soften is None:
        return NOT_SOFTENED
    schedule = SOFTENINGS[recipe.soften]
    private = any(group.form.shares and not group.form.whole for group in plan.groups)
    if not (private if schedule.of_private else shares):
        return NOT_SOFTENED
    return {} if schedule.pulled else {"pull": 0.0}
