"""End a training whose loss on held-out examples no longer falls, and restore its best weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerControl, TrainerState, TrainingArguments

from sharetune.trainers.models.mixtures import without_balancing
from sharetune.trainers.models.softening import soft_layers
from sharetune.trainers.training.data_parallel import led
from sharetune.trainers.training.resuming import Remembering
from sharetune.trainers.training.sharding import load_, takes_part

HELD_OUT = 10
"""One of this many training examples is held out: enough to see the loss turn, little lost."""

LOOKS = 20
"""Measurements of the held-out loss in a whole training, one after each 5 % of its steps."""

BATCH = 32
"""Examples of a batch of held-out examples, which bounds memory."""


def hold_out(data: Any) -> tuple[Any, Any]:
    """Split off every tenth example; return the rest, and those. Needs two examples at least."""
    every = min(HELD_OUT, len(data))
    held = range(0, len(data), every)
    rest = AllBut(every, len(data))
    return torch.utils.data.Subset(data, rest), torch.utils.data.Subset(data, held)


@dataclass(frozen=True)
class AllBut(Sequence[int]):
    """The numbers below `total`, in order, that `every` (2 or more) does not divide."""

    every: int
    total: int

    def __len__(self) -> int:
        return self.total - -(-self.total // self.every)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return place + place // (self.every - 1) + 1


class Patience(Remembering):
    """A callback that stops a training after `patience` held-out losses without improvement.

    It measures the loss on `data` after every 5 % of the steps, from when no layer has weights of
    its own next to the bank any more, and restores the best weights at the end.
    """

    def __init__(self, patience: int, data: Sequence[Any], collate: object) -> None:
        self.patience, self.data, self.collate = patience, data, collate
        self.best, self.since = math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Measure the held-out loss when due. The Trainer calls this after every step."""
        every = max(1, state.max_steps // LOOKS)
        last = state.global_step >= state.max_steps
        if soft_layers(model) or (state.global_step % every and not last):
            return
        own = held_out_loss(model, self.data, self.collate) if takes_part(model) else 0.0
        loss = led(lambda: own)
        if loss < self.best:
            self.best, self.since = loss, 0
            self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        else:
            self.since += 1
            control.should_training_stop = control.should_training_stop or (
                self.since >= self.patience
            )

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Restore the best weights. The Trainer calls this when training is over."""
        if self.weights:
            load_(model, self.weights)

    def memory(self) -> dict[str, Any]:
        return {"best": self.best, "since": self.since, "weights": self.weights}

    def recall(self, memory: dict[str, Any]) -> None:
        self.best, self.since = memory["best"], memory["since"]
        self.weights = memory["weights"]


def held_out_loss(model: Any, data: Sequence[Any], collate: Any) -> float:
    """Return the model's own mean loss over `data`, in nats, without dropout."""
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, collate_fn=collate)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    training, total = model.training, 0.0
    model.eval()
    with torch.no_grad():
        for batch in loader:
            inputs = {key: value.to(device) for key, value in batch.items()}
            loss = model(**inputs, **without_balancing(model)).loss
            total += float(loss) * len(next(iter(inputs.values())))
    model.train(training)
    return total / len(data)
