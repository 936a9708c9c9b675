"""How a candidate is trained, and the candidate itself."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sharetune.spaces.adversaries import AdversaryField
from sharetune.spaces.augmentation import Augmentation
from sharetune.spaces.compression import Compression
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.forms import Reuse, Tie
from sharetune.spaces.plan import SharingPlan, StackShape

OF_BANKS = ("bank_l2", "bank_l2_start", "bank_lr_rule", "bank_lr_scale", "soften")

PLAIN = (
    *("learning_rate", "weight_decay", "warmup_ratio", "dropout", "label_smoothing"),
    *("steps", "epochs", "batch_size", "max_length", "seed"),
)


class Recipe(BaseModel):
    """Training settings of one candidate. Give `steps` or `epochs`, not both.

    `learning_rate` is AdamW's peak, reached after `warmup_ratio` of the steps and falling
    linearly to 0. `weight_decay` is AdamW's decoupled decay of every matrix. `bank_l2` adds
    ``bank_l2 / 2 * sum ||B||^2`` over the shared weights to the loss, `bank_l2_start` the same of
    what separates them from their start. The top `kept_top` layers of each stack stay private
    and learn at ``learning_rate * kept_top_lr_scale``. `max_length` is in tokens.

    The other learning-rate factors multiply: `bank_lr_rule` divides a bank's rate, and with it
    its decay, by the number of its readers or the root of that; `layer_lr_decay` multiplies once
    for every layer between a parameter and the head, that parameter's layer included.
    `dropout` replaces every dropout of the model. With `patience` a tenth of the training data is
    held out and looked at after every 5 % of the steps; training ends when its loss did not fall
    for so many looks, and goes back to the best. `r_drop` is the weight of the divergence between
    two passes with different dropout; for `distill`, `adversary` and `augment` see their own files.
    docs/recipes.md tells of each part.

    With `soften` (``interpolate``, ``replace`` or ``pull``) layers keep their own weights beside
    the bank's while a schedule leads from the one to the other over the first `soften_until` of
    the steps; `pull` is then the strength of the mean square between both in the loss. With
    ``untie`` the layers of a bank are tied until then, and what the plan keeps private starts
    from there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(5e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    bank_l2: float = Field(0.0, ge=0)
    bank_l2_start: float = Field(0.0, ge=0)
    bank_lr_rule: Literal["none", "sqrt", "readers"] = "none"
    bank_lr_scale: float = Field(1.0, gt=0)
    head_lr_scale: float = Field(1.0, gt=0)
    layer_lr_decay: float = Field(1.0, gt=0, le=1)
    dropout: float | None = Field(None, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    patience: int | None = Field(None, ge=1)
    distill: Distillation | None = None
    adversary: AdversaryField = None
    augment: Augmentation | None = None
    r_drop: float = Field(0.0, ge=0)
    soften: Literal["interpolate", "replace", "pull", "untie"] | None = None
    soften_until: float = Field(0.5, gt=0, le=1)
    pull: float = Field(0.0, ge=0)
    kept_top: int = Field(0, ge=0)
    kept_top_lr_scale: float = Field(1.0, gt=0, le=1)
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    batch_size: int = Field(16, ge=1)
    max_length: int = Field(128, ge=4)
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _three_epochs_by_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("steps") is None and data.get("epochs") is None:
            return {**data, "epochs": 3.0}
        return data

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> "Recipe":
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(
                f"a recipe has steps or epochs, but got steps={self.steps} and "
                f"epochs={self.epochs:g}",
                "remove one of the two",
            )
        return self

    def after_pruning(self) -> "Recipe":
        """The recipe as far as layers of unequal width can follow it: without schedules, and
        without what goes by layers."""
        distill = self.distill
        if distill is not None:
            distill = distill.model_copy(update={"relations": 0.0}).canonical()
        found = {"soften": None, "kept_top_lr_scale": 1.0, "layer_lr_decay": 1.0}
        return self.model_copy(update=found | {"distill": distill})

    def plain(self) -> "Recipe":
        """The recipe without what wins back what sharing costs: an unshared teacher's."""
        kept = {key: getattr(self, key) for key in PLAIN}
        return Recipe(**kept)


class Candidate(BaseModel):
    """All that is proposed for one trial: plan, compression and recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: SharingPlan = SharingPlan()
    compression: Compression = Compression()
    recipe: Recipe = Recipe()

    def bound(self, stacks: Mapping[str, StackShape]) -> "Candidate":
        """The canonical candidate for a model with these stacks.

        Candidates that build the same model and train it in the same way are equal.
        """
        recipe = self.recipe
        inert: dict[str, Any] = {} if recipe.kept_top else {"kept_top_lr_scale": 1.0}
        plan = self.plan.keeping_top(recipe.kept_top, stacks)
        shares = any(group.form.shares for group in plan.groups)
        if not shares:
            inert |= {key: Recipe.model_fields[key].default for key in OF_BANKS}
        inert |= _inert_softening(recipe, plan, shares=shares)
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

    def written(self) -> dict[str, Any]:
        """The candidate as plain data that ``Candidate.model_validate`` reads."""
        return {
            "plan": self.plan.written(),
            "compression": self.compression.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
        }

    def key(self) -> str:
        """Text that is the same for equal candidates, in this process and in any other."""
        return json.dumps(self.written(), sort_keys=True)


def _inert_softening(recipe: Recipe, plan: SharingPlan, *, shares: bool) -> dict[str, Any]:
    """Defaults of what a schedule's settings do not change here."""
    softens = shares and recipe.soften is not None
    unties = recipe.soften == "untie"
    if unties:
        softens = any(
            group.form.shares and not isinstance(group.form, Tie | Reuse) for group in plan.groups
        )
    if not softens:
        return {"soften": None, "soften_until": 0.5, "pull": 0.0}
    return {"pull": 0.0} if unties else {}
