"""Train one candidate in several processes, each on its part of every batch.

All members draw the same batches and read their own rows of them. DistributedDataParallel, which
the library's `Trainer` puts around a model where there are several processes, takes the mean of
their gradients, so that a team trains as one process does with the whole batch.

A process is in a team while `torch.distributed` is initialised, by :func:`joined` or otherwise.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from sharetune.spaces.recipe import Recipe
from sharetune.trainers.training.micro_batches import SPARE

LONGEST = timedelta(days=1)
"""Time that members wait for each other in a step: the leader may measure long at a rung."""

MEETING = timedelta(minutes=10)
"""Time within which all members must have connected, which covers loading the libraries."""


@dataclass(frozen=True)
class Team:
    """A process's place among `size` members: its `rank` (0 leads), and the `store` to meet at."""

    size: int
    rank: int
    store: distributed.TCPStore


def lead(size: int, host: str) -> Team:
    """Open the leader's store; the other members find it at `host` and the store's port."""
    store = distributed.TCPStore(
        host, 0, size, is_master=True, wait_for_workers=False, timeout=MEETING
    )
    return Team(size, 0, store)


def follow(size: int, rank: int, host: str, port: int) -> Team:
    """Connect a member that does not lead to the leader's store at `host` and `port`."""
    return Team(size, rank, distributed.TCPStore(host, port, size, timeout=MEETING))


@contextmanager
def joined(team: Team | None) -> Iterator[None]:
    """Train inside with the other members of `team`, over gloo and, on GPUs, NCCL."""
    if team is None:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(
        backend, store=team.store, rank=team.rank, world_size=team.size, timeout=LONGEST
    )
    try:
        with _seen_by_the_library(team):
            yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def _seen_by_the_library(team: Team) -> Iterator[None]:
    """Set inside what accelerate reads of a process that `torchrun` has started.

    A worker of a trial sees one GPU, its own. Without a number of threads accelerate sets one.
    """
    given = {
        "RANK": team.rank,
        "WORLD_SIZE": team.size,
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 1,
        "MASTER_ADDR": team.store.host,
        "MASTER_PORT": team.store.port,
        "OMP_NUM_THREADS": torch.get_num_threads(),
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update({name: str(value) for name, value in given.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        AcceleratorState._reset_state(reset_partial_state=True)


def settings_together() -> dict[str, Any]:
    """Return the settings of a `Trainer` that a team needs; none for a process alone."""
    if not in_team():
        return {}
    return {
        "ddp_backend": None if torch.cuda.is_available() else "gloo",
        "accelerator_config": {"even_batches": False},
    }


def in_team() -> bool:
    """Return whether this process is in a team, of one or more."""
    return distributed.is_initialized()


def members() -> int:
    """Return the number of processes that train together, this one included."""
    return distributed.get_world_size() if in_team() else 1


def leads() -> bool:
    """Return whether this process leads those that train together, or trains alone."""
    return members() == 1 or distributed.get_rank() == 0


def led(compute: Callable[[], float]) -> float:
    """Return the leader's result of `compute`, which no other member computes, to all members."""
    if members() == 1:
        return compute()
    result = torch.tensor([compute() if leads() else 0.0], dtype=torch.float64)
    distributed.broadcast(result, 0)
    return result.item()


def least(number: int) -> int:
    """Return the least of the members' numbers."""
    if members() == 1:
        return number
    found = torch.tensor(number)
    distributed.all_reduce(found, distributed.ReduceOp.MIN)
    return int(found)


class Numbers(torch.utils.data.Dataset):
    """A data set of `rows` examples that returns their numbers."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> int:
        return index


def part_collate(rows: Any, collate: Callable[[list[Any]], Any]) -> Callable[[list[int]], Any]:
    """Return a collate function that takes a batch's row numbers and reads this member's part.

    A member that gets none of a small batch reads one row, marked as `SPARE`.
    """
    rank, size = distributed.get_rank(), members()

    def together(numbers: list[int]) -> Any:
        own = numbers[rank::size]
        part = collate([rows[number] for number in own or numbers[:1]])
        return part if own else {**part, SPARE: torch.tensor(True)}

    return together


def whole_batches(loader: Any) -> Any:
    """Return the library's `loader` of a team so that each member gets every batch's numbers."""
    loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
    return loader


def random_parts(model: PreTrainedModel, recipe: Recipe) -> str | None:
    """Name what of `model` takes part in a training step or not, as chance or the batch decides.

    None if the same parameters do in every step.
    """
    if recipe.soften == "replace":
        return "layers replaced at random (soften: replace)"
    for name, module in model.named_modules():
        settings = vars(module.config).items() if isinstance(module, PreTrainedModel) else ()
        if any(key.endswith("layerdrop") and value for key, value in settings):
            return "layers dropped at random (layerdrop)"
        if isinstance(module, nn.ModuleList) and "expert" in name:
            return f"experts that a batch may not meet ({name})"
    return None


def is_static(model: PreTrainedModel, recipe: Recipe) -> bool:
    """Return whether all steps of a training use the same parameters.

    While a model goes from soft to hard, layers' own weights leave it.
    """
    return recipe.soften is None and random_parts(model, recipe) is None


class Learner(nn.Module):
    """A model whose output is the whole loss of a batch, terms that read weights alone included.

    What is around it thus sees all that a step computes.
    """

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, dict[str, Any]], Tensor]):
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the loss of a batch, a scalar.

        Of a mixed precision only the model's own pass is, as for a process alone.
        """
        with torch.autocast(next(self.model.parameters()).device.type, enabled=False):
            return self._loss(self.model, dict(inputs))


class Reduction:
    """Decides which backward passes of `parallel` average gradients over members.

    One that does not leaves its gradients to the next that does. The first of all always does: a
    static graph is recorded in it.
    """

    def __init__(self, parallel: nn.Module) -> None:
        self.parallel, self._begun = parallel, False

    @contextmanager
    def during(self, last: bool) -> Iterator[None]:
        """Average in passes inside if they are the `last` of a step."""
        if not isinstance(self.parallel, DistributedDataParallel):
            yield
            return
        before = self.parallel.require_backward_grad_sync
        self.parallel.require_backward_grad_sync = last or not self._begun
        self._begun = True
        try:
            yield
        finally:
            self.parallel.require_backward_grad_sync = before
