"""The gradients of one optimiser step, for tests that compare ways to compute them."""

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from sharetune.spaces import Recipe, SharingPlan
from sharetune.trainers.models.sharing import share_
from sharetune.trainers.models.structure import stack_shapes
from sharetune.trainers.training.trainer import TrainingInputs, train
from tests.families import tiny

ONE_STEP = {"steps": 1, "batch_size": 8, "max_grad_norm": 0.0, "dropout": 0.0, "warmup_ratio": 0.0}
BANK = SharingPlan.range(0, 3, 0.5)


class Kept(TrainerCallback):
    """Keeps the gradients that the optimiser is about to use."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        named = model.named_parameters()
        self.found = {name: p.grad.clone() for name, p in named if p.grad is not None}


def shared(family: str, plan: SharingPlan = BANK, **settings) -> PreTrainedModel:
    """A tiny model of `family` that shares by `plan`."""
    model = tiny(family)
    return share_(model, plan.bound(stack_shapes(model)), **settings)


def gradients(model, rows, collate, lesson=None, **recipe) -> dict[str, Tensor]:
    """The gradients of the first step of a training by the recipe, by parameter name."""
    kept = Kept()
    wanted = Recipe.model_validate(ONE_STEP | recipe)
    train(model, wanted, TrainingInputs(rows, collate, 1, lesson, callbacks=[kept]))
    return kept.found


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two sets of gradients."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def texts(labelled: bool) -> list[dict[str, list[int]]]:
    """Eight texts of 3 to 10 tokens: each with a class, or the first without counted labels."""
    generator = torch.Generator().manual_seed(3)
    rows = [
        {"input_ids": torch.randint(5, 99, (3 + i,), generator=generator).tolist()}
        for i in range(8)
    ]
    labels = [i % 2 for i in range(8)] if labelled else [r["input_ids"] for r in rows]
    if not labelled:
        labels[0] = [-100] * 3
    return [row | {"labels": label} for row, label in zip(rows, labels, strict=True)]


def padded(rows) -> dict[str, Tensor]:
    """A batch of such rows, and of what a teacher has said to them."""
    longest = max(len(row["input_ids"]) for row in rows)

    def even(name: str, value: int) -> Tensor:
        return torch.tensor([r[name] + [value] * (longest - len(r[name])) for r in rows])

    ids = even("input_ids", 0)
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    is_class = isinstance(rows[0]["labels"], int)
    batch["labels"] = (
        torch.tensor([r["labels"] for r in rows]) if is_class else even("labels", -100)
    )
    return batch
