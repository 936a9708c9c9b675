"""Train one candidate in several processes, each on its part of every batch.

All members draw the same batches, read their own rows of them, and after the backward passes of a
step take the mean of their gradients, so that a team trains as one process does with the whole
batch. DistributedDataParallel averages inside the backward pass and finds out before it which
parameters take part: it fails where a penalty reads weights that the forward pass does not, as
`pull` does, and averages at every pass of an adversary.

A process is in a team while `torch.distributed` is initialised, by :func:`joined` or otherwise.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, distributed, nn

from sharetune.trainers.training.micro_batches import SPARE

LONGEST = timedelta(days=1)
"""Time that members wait for each other in a step: the leader may measure long at a rung."""

MEETING = timedelta(minutes=10)
"""Time within which all members must have connected, which covers loading the libraries."""

BUCKET = 2**24
"""Elements that are averaged at once, 64 MiB in fp32: few messages, little extra memory."""


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
        yield
    finally:
        distributed.destroy_process_group()


def members() -> int:
    """Return the number of processes that train together, this one included."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def led(compute: Callable[[], float]) -> float:
    """Return the leader's result of `compute`, which no other member computes, to all members."""
    if members() == 1:
        return compute()
    result = torch.tensor([compute() if distributed.get_rank() == 0 else 0.0], dtype=torch.float64)
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


def start_alike_(model: nn.Module, seed: int) -> None:
    """Copy the leader's weights to all members, in place, and seed each member differently."""
    for tensor in [*model.parameters(), *model.buffers()]:
        distributed.broadcast(tensor.data, 0)
    torch.manual_seed(seed + distributed.get_rank())


def average_(loss: Tensor) -> Tensor:
    """Average the loss over members, in place."""
    distributed.all_reduce(loss)
    return loss.div_(members())


def average_gradients_(parameters: Iterable[nn.Parameter]) -> None:
    """Average all gradients over members, in place.

    A gradient that a member does not have counts as zero; one that none has stays None.
    """
    for bucket in _buckets([p for p in parameters if p.requires_grad]):
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
        present = [float(p.grad is not None) for p in bucket]
        flags = torch.tensor(present, dtype=bucket[0].dtype, device=bucket[0].device)
        averaged = average_(torch.cat([flags, *(g.flatten() for g in gradients)]))
        flags, *parts = averaged.split([len(bucket), *(p.numel() for p in bucket)])
        for parameter, used, mean in zip(bucket, flags.tolist(), parts, strict=True):
            parameter.grad = mean.view_as(parameter) if used else None


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Split `parameters`, in order, into lists of about `BUCKET` elements of one dtype."""
    ends = accumulate(parameter.numel() for parameter in parameters)
    kinds = [(end // BUCKET, p.dtype, p.device) for end, p in zip(ends, parameters, strict=True)]
    numbered = zip(kinds, parameters, strict=True)
    return [[p for _, p in bucket] for _, bucket in groupby(numbered, key=lambda pair: pair[0])]
