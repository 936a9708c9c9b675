"""Train one candidate with the library's `Trainer`.

Our own are the loss terms, perturbed steps, the parameter groups, the recorded curve, and
nothing else; each has a file of its own.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from sharetune.spaces.adversaries import Adversary
from sharetune.spaces.errors import CandidateFault, ConfigError, OutOfMemory
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.data.lengths import longest, mean_length
from sharetune.trainers.measuring.memory import free_memory, memory_rise
from sharetune.trainers.models.softening import SoftToHard, harden_
from sharetune.trainers.training import resuming as checkpointing
from sharetune.trainers.training.adversarial import ATTACKS, Perturbed, Step, embedded_zeros
from sharetune.trainers.training.arguments import arguments, trained_in_place
from sharetune.trainers.training.cached_answers import ANSWERS, Taught, taught_collate
from sharetune.trainers.training.data_parallel import (
    Learner,
    Numbers,
    Reduction,
    in_team,
    is_static,
    leads,
    least,
    members,
    part_collate,
    whole_batches,
)
from sharetune.trainers.training.distillation import Distiller, Lesson
from sharetune.trainers.training.dropout import set_dropout_
from sharetune.trainers.training.losses import LOSSES, consistency
from sharetune.trainers.training.micro_batches import (
    SHARES,
    WHOLE,
    Shares,
    equal_part,
    most_that_fit,
    share_out,
)
from sharetune.trainers.training.parameter_groups import parameter_groups
from sharetune.trainers.training.patience import Patience, hold_out
from sharetune.trainers.training.resuming import Checkpoints, Remembering
from sharetune.trainers.training.scattered import Scattered
from sharetune.trainers.training.sharding import (
    is_sharded,
    placed_state,
    shard_around_,
    sharded,
    whole,
)
from sharetune.trainers.training.touched import frozen

TRIED: dict[str, Any] = {"learning_rate": 0.0, "soften": None, "patience": None}
"""Settings of a recipe under which a step moves nothing."""

MOST_LISTED = 2**20
"""Rows up to which their numbers are shuffled as a list, which takes 40 MB for these."""

logger = logging.getLogger(__name__)


@dataclass
class Curve(Remembering):
    """A callback that records ``[step, loss]`` and ends a training whose loss is not finite."""

    points: list[list[float]] = field(default_factory=list)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Record the loss. The Trainer calls this at every logged step."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise CandidateFault(f"the loss is {loss} at step {state.global_step}")
        self.points.append([state.global_step, round(loss, 5)])

    def memory(self) -> dict[str, Any]:
        return {"points": self.points}

    def recall(self, memory: dict[str, Any]) -> None:
        self.points[:] = memory["points"]


class CandidateTrainer(Trainer):
    """A `Trainer` with a recipe's loss terms, perturbations and parameter groups.

    A recipe that asks for none of them takes the library's own step. Where a batch has parts, or a
    team its processes, each part counts by its share, so that all train as one on the whole batch.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        model: PreTrainedModel,
        lesson: Lesson | None,
        checkpoints: Checkpoints | None = None,
        **kwargs: object,
    ) -> None:
        self.recipe, self.checkpoints = recipe, checkpoints
        strengths = {key: getattr(recipe, key) for key in LOSSES}
        self.terms = [LOSSES[key](model, value) for key, value in strengths.items() if value > 0]
        super().__init__(model=model, **kwargs)
        self.distiller: Distiller | None = None
        if lesson is not None and recipe.distill is not None:
            self.distiller = Distiller(recipe.distill, model, lesson)
        self.plain_loss = not (self.terms or self.distiller or recipe.r_drop)
        self.in_team, self.sharded = in_team(), is_sharded(model)
        if self.in_team:
            self._take_part()

    def _take_part(self) -> None:
        """Sample whole batches by row numbers, and read only this member's rows of them."""
        rows: Any = self.train_dataset
        collate = self._get_collator_with_removed_columns(self.data_collator)
        self.data_collator: Any = part_collate(rows, collate)
        self.train_dataset: Any = Numbers(len(rows))
        torch.manual_seed(self.recipe.seed + self.args.process_index)

    def get_train_dataloader(self) -> Any:
        """Return the library's loader, of which each member of a team gets every batch."""
        loader = super().get_train_dataloader()
        return whole_batches(loader) if self.in_team else loader

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        """Put the whole loss inside what averages gradients over a team."""
        if not self.in_team:
            wrapped: nn.Module = super()._wrap_model(model, *args, **kwargs)
            return wrapped
        inner = self.accelerator.prepare_model(model, evaluation_mode=True)
        learner = Learner(inner, self._whole_loss)
        wrap = shard_around_ if self.sharded else self.accelerator.prepare_model
        parallel: nn.Module = wrap(learner)
        self.reduction = Reduction(parallel)
        return parallel

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """Move the model as the library does, but not one whose parts lie where they should."""
        if not is_sharded(model):
            super()._move_model_to_device(model, device)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the parts of the next batch, with their shares if there are several."""
        parts, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if parts and (len(parts) > 1 or self.in_team):
            parts = share_out(parts, self.model)
        return parts, items

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: object = None
    ) -> Tensor:
        """Run the forward and backward passes of one batch; return the loss to report."""
        adversary = self.recipe.adversary
        if adversary is not None:
            return self._adversarial_step(adversary, model, inputs)
        with self._pass(last=True):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def _pass(self, last: bool) -> AbstractContextManager[None]:
        """Return the context of a forward and a backward pass, the `last` of a part or not."""
        if not self.in_team:
            return nullcontext()
        return self.reduction.during(last and self.accelerator.sync_gradients)

    def _adversarial_step(
        self, adversary: Adversary, model: nn.Module, inputs: dict[str, Any]
    ) -> Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        if isinstance(self.model, FSDPModule):  # its embeddings are in parts outside a pass
            self.model.unshard()
        zeros, mask = embedded_zeros(self.model, inputs)
        with Perturbed(self.model) as perturbed:

            def loss_under(delta: Tensor) -> Tensor:
                perturbed.delta = delta
                loss: Tensor = self.compute_loss(model, dict(inputs))
                return loss / self.current_gradient_accumulation_steps

            step = Step(loss_under, self.accelerator.backward, zeros, mask, self._pass)
            return ATTACKS[adversary.name](adversary, step)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: object, **kw: object
    ) -> Any:
        """Compute the whole loss of a batch or a part of one; the wrapped model's in a team."""
        if self.in_team and model is self.model_wrapped:
            return model(inputs)
        return self._whole_loss(model, inputs, *args, **kw)

    def _whole_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: object, **kw: object
    ) -> Any:
        """Compute the task's loss plus the recipe's terms, weighted by the part's shares."""
        shares = inputs.pop(SHARES, WHOLE)
        if self.plain_loss or not model.training:
            loss = super().compute_loss(model, inputs, *args, **kw)
            return loss if shares is WHOLE else loss * shares.labels
        wants_outputs = kw.pop("return_outputs", False)
        loss, outputs = self._consistent_loss(model, inputs, shares, *args, **kw)
        if self.distiller is not None:
            progress = self.state.global_step / self.state.max_steps
            loss = self.distiller.loss(loss, outputs, inputs, progress, shares)
        for term in self.terms:
            loss = loss + term()
        return (loss, outputs) if wants_outputs else loss

    def _consistent_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, object],
        shares: Shares,
        *args: object,
        **kw: object,
    ) -> tuple[Tensor, Any]:
        """Return the task's loss, with R-Drop of two passes, and the last pass's outputs."""
        fed = {key: value for key, value in inputs.items() if key != ANSWERS}
        fed |= self.distiller.requests if self.distiller is not None else {}
        loss, outputs = super().compute_loss(model, dict(fed), *args, return_outputs=True, **kw)
        if not self.recipe.r_drop:
            return shares.labels * loss, outputs
        again, other = super().compute_loss(model, dict(fed), *args, return_outputs=True, **kw)
        apart = consistency(outputs.logits, other.logits)
        agreed = shares.labels * (loss + again) / 2
        return agreed + shares.examples * self.recipe.r_drop * apart, other

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        checkpointing.write(self.kept, Path(str(output_dir)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
        elif leads():
            states = {"optimizer": self.kept_optimizer, "scheduler": self.lr_scheduler.state_dict()}
            for name, state in states.items():
                torch.save(state, Path(output_dir) / f"{name}.pt")

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        """Save a checkpoint as the library does; if that fails, warn and train on.

        A team's counts once all members have written their part of it.
        """
        assert self.checkpoints is not None, "nobody else asks for one"
        self.kept = checkpointing.kept(self.model, self.callback_handler.callbacks)
        if self.sharded:
            self.kept_optimizer = whole(self.optimizer.state_dict(), kept=leads())
        written = self._tried(super()._save_checkpoint, model, trial)
        if least(written) and leads():
            self._tried(self.checkpoints.place, self.state.global_step)
        self.kept, self.kept_optimizer = {}, {}

    def _tried(self, write: Callable[..., None], *given: object) -> bool:
        try:
            write(*given)
        except (OSError, RuntimeError) as error:
            logger.warning("no checkpoint at step %d: %s", self.state.global_step, error)
            return False
        return True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: object = None) -> None:
        """Do nothing yet: the optimiser first takes the parameters of the model at the start."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.sharded:
            self._load_sharded(Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            checkpointing.read_(self.model, self.callback_handler.callbacks, Path(checkpoint))

    def _load_sharded(self, checkpoint: Path) -> None:
        read = partial(torch.load, map_location="cpu", weights_only=True, mmap=True)
        state = placed_state(read(checkpoint / "optimizer.pt"), self.optimizer.param_groups)
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(read(checkpoint / "scheduler.pt"))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Draw rows as the library does, but of very many without a list of their numbers."""
        rows = len(self.train_dataset if train_dataset is None else train_dataset)
        if rows <= MOST_LISTED:
            return super()._get_train_sampler(train_dataset)
        return Scattered(rows, self.recipe.seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the library's optimiser over the recipe's parameter groups."""
        groups = parameter_groups(model or self.model, self.recipe)
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer_cls_and_kwargs = kind, settings | {"params": groups}
        found: torch.optim.Optimizer = super().create_optimizer(model)
        return found


@dataclass(frozen=True)
class TrainingInputs:
    """Data, steps and callbacks of one training.

    `total_steps` is the number of optimiser steps, `lesson` the teaching of a recipe that distils.
    At most `micro_batch` examples pass through the model at once (None: as the recipe says): the
    largest divisor of the batch up to that. Parameters that are `frozen` stay as they are. A
    training continues from the latest of `checkpoints` that can be read, if there is one. With
    `sharded` a team divides weights and optimiser state among its members.
    """

    data: Any
    collate: Any
    total_steps: int
    lesson: Lesson | None = None
    callbacks: Sequence[TrainerCallback] = ()
    micro_batch: int | None = None
    checkpoints: Checkpoints | None = None
    frozen: Sequence[nn.Parameter] = ()
    sharded: bool = False


def train(model: PreTrainedModel, recipe: Recipe, inputs: TrainingInputs) -> list[list[float]]:
    """Train `model` in place on `inputs` and return its curve: ``[[step, loss], ...]``.

    In a team (`data_parallel.py`) all members train `model` together and end with the same weights.
    A model of which everything is frozen has an empty curve. Raises :class:`CandidateFault` if the
    loss is not finite.
    """
    if recipe.distill is not None and inputs.lesson is None:
        raise ConfigError("the recipe distils, but there is no teacher", "give train a lesson")
    if inputs.micro_batch is None:
        inputs = replace(inputs, micro_batch=micro_batch(model, recipe, inputs))
    curve = Curve()
    data, patience = _held_out(recipe, inputs)
    callbacks = [curve, *_schedule(recipe), *inputs.callbacks, *patience]
    with frozen(inputs.frozen):
        _fit(model, recipe, replace(inputs, data=data, callbacks=callbacks))
    harden_(model)
    return curve.points


def _fit(model: PreTrainedModel, recipe: Recipe, inputs: TrainingInputs) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return
    inputs = _taught(inputs)
    if recipe.dropout is not None:
        set_dropout_(model, recipe.dropout)
    latest = None if inputs.checkpoints is None else inputs.checkpoints.latest()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as undone:
        if inputs.sharded and in_team():
            model = undone.enter_context(sharded(model, recipe))
        undone.enter_context(trained_in_place(model, recipe))
        trainer = _trainer(model, recipe, inputs, scratch)
        if trainer.distiller is not None:
            undone.enter_context(trainer.distiller.listening())
        trainer.train(resume_from_checkpoint=None if latest is None else str(latest))


def micro_batch(model: PreTrainedModel, recipe: Recipe, inputs: TrainingInputs) -> int:
    """Return the most examples that may pass through `model` at once in each process.

    That is what the recipe says, or what fits into free memory.
    """
    wanted = recipe.micro_batch or recipe.batch_size
    return _most_that_fit(model, recipe, inputs) if wanted == "auto" else int(wanted)


def _most_that_fit(model: PreTrainedModel, recipe: Recipe, inputs: TrainingInputs) -> int:
    """Train the longest examples for two steps, and keep nothing: at a learning rate of 0.

    The second step has the optimiser's state as well.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    free = free_memory(device)

    def rise(examples: int) -> float:
        batch = examples * members()
        tried = recipe.model_copy(update=TRIED | {"batch_size": batch})
        rows = torch.utils.data.Subset(inputs.data, longest(inputs.data, 2 * batch))
        short = replace(
            inputs, data=rows, total_steps=2, callbacks=(), micro_batch=batch, checkpoints=None
        )
        return memory_rise(device, lambda: _fit(model, tried, short))

    with torch.random.fork_rng(), memory_watched(), frozen(inputs.frozen):
        found = most_that_fit(rise, free, recipe.batch_size)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return found


def _held_out(recipe: Recipe, inputs: TrainingInputs) -> tuple[Any, list[TrainerCallback]]:
    """Return the rows to train on, and the callback that watches those held out of them."""
    if recipe.patience is None or len(inputs.data) < 2:
        return inputs.data, []
    data, held = hold_out(inputs.data)
    return data, [Patience(recipe.patience, held, inputs.collate)]


def _taught(inputs: TrainingInputs) -> TrainingInputs:
    """Return `inputs` with the teacher's cached answers in their rows, where there are such."""
    if inputs.lesson is None or inputs.lesson.answers is None:
        return inputs
    data = Taught(inputs.data, inputs.lesson.answers)
    return replace(inputs, data=data, collate=taught_collate(inputs.collate))


def _trainer(
    model: PreTrainedModel, recipe: Recipe, inputs: TrainingInputs, scratch: str
) -> CandidateTrainer:
    checkpoints = inputs.checkpoints
    folder = scratch if checkpoints is None else str(checkpoints.draft)
    args = arguments(recipe, folder, inputs.total_steps, _parts(recipe, inputs))
    args.ddp_static_graph = is_static(model, recipe)
    args.ddp_find_unused_parameters = not args.ddp_static_graph
    trainer = CandidateTrainer(
        recipe=recipe,
        lesson=inputs.lesson,
        checkpoints=checkpoints,
        model=model,
        args=args,
        train_dataset=inputs.data,
        data_collator=inputs.collate,
        callbacks=[*inputs.callbacks, *([] if checkpoints is None else [checkpoints])],
    )
    # A model's loss is the mean over its part of the batch: the Trainer must divide by the
    # parts, which it leaves to models that take `num_items_in_batch` and ignore it.
    trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(PrinterCallback)
    return trainer


def _parts(recipe: Recipe, inputs: TrainingInputs) -> int:
    most = inputs.micro_batch or recipe.batch_size
    return recipe.batch_size // equal_part(recipe.batch_size, most)


@contextmanager
def memory_watched() -> Iterator[None]:
    """Turn errors inside that come from exhausted memory into :class:`OutOfMemory`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory: {error}") from error


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether GPU or host memory ran out.

    On the host PyTorch's allocator raises a plain ``RuntimeError``.
    """
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error)


def _schedule(recipe: Recipe) -> list[TrainerCallback]:
    return [SoftToHard(recipe.soften_until)] if recipe.soften else []


def optimiser_steps(recipe: Recipe, rows: Any) -> int:
    """Return the steps of a training on the prepared `rows`.

    Raises :class:`ConfigError` for a recipe in tokens, if the rows have none.
    """
    if recipe.steps is not None:
        return recipe.steps
    length = mean_length(rows) if recipe.tokens is not None else None
    if recipe.tokens is not None and length is None:
        raise ConfigError(
            "recipe.tokens counts the tokens of texts, and this task's examples have none",
            "write recipe.steps or recipe.epochs",
        )
    passes = recipe.passes(len(rows), length)
    return max(1, math.ceil(passes * math.ceil(len(rows) / recipe.batch_size)))
