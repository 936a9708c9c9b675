"""Several processes that train one candidate together, each on its part of every batch.

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

SHARE = "share_of_batch"
LONGEST = timedelta(days=1)
MEETING = timedelta(minutes=10)
BUCKET = 2**24
"""Numbers that are averaged at once: 64 MiB."""


@dataclass(frozen=True)
class Team:
    """A member's place among `size`, its `rank` from 0, who leads; `store` is where they meet."""

    size: int
    rank: int
    store: distributed.TCPStore


def lead(size: int, host: str) -> Team:
    """The leader's place; the others find it at `host` and the port of its store."""
    store = distributed.TCPStore(
        host, 0, size, is_master=True, wait_for_workers=False, timeout=MEETING
    )
    return Team(size, 0, store)


def follow(size: int, rank: int, host: str, port: int) -> Team:
    """The place of a member that does not lead."""
    return Team(size, rank, distributed.TCPStore(host, port, size, timeout=MEETING))


@contextmanager
def joined(team: Team | None) -> Iterator[None]:
    """Inside, this process trains with the others of `team`, by gloo and on GPUs NCCL."""
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
    """How many train with this process, itself included."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def led(compute: Callable[[], float]) -> float:
    """What `compute` gives, worked out by the leader alone and the same for all members."""
    if members() == 1:
        return compute()
    told = torch.tensor([compute() if distributed.get_rank() == 0 else 0.0], dtype=torch.float64)
    distributed.broadcast(told, 0)
    return told.item()


class Numbers(torch.utils.data.Dataset):
    """Stands for `rows` examples by their numbers."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> int:
        return index


def part_collate(rows: Any, collate: Callable[[list[Any]], Any]) -> Callable[[list[int]], Any]:
    """Makes this member's part of a batch that is given by the numbers of its `rows`.

    What is learned from the part counts by its `SHARE`, a scalar whose mean over members is 1;
    a member that gets none of a small batch reads one row, of share 0.
    """
    rank, size = distributed.get_rank(), members()

    def together(numbers: list[int]) -> Any:
        own = numbers[rank::size]
        share = torch.tensor(len(own) * size / len(numbers))
        return {**collate([rows[number] for number in own or numbers[:1]]), SHARE: share}

    return together


def start_alike_(model: nn.Module, seed: int) -> None:
    """Gives all members the leader's weights, in place, and random numbers of their own."""
    for tensor in [*model.parameters(), *model.buffers()]:
        distributed.broadcast(tensor.data, 0)
    torch.manual_seed(seed + distributed.get_rank())


def average_(loss: Tensor) -> Tensor:
    """The mean over members, in place."""
    distributed.all_reduce(loss)
    return loss.div_(members())


def average_gradients_(parameters: Iterable[nn.Parameter]) -> None:
    """Gives every member the mean of all members' gradients; one that is missing counts as zero,
    and where all are missing it stays so."""
    for bucket in _buckets([p for p in parameters if p.requires_grad]):
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
        present = [float(p.grad is not None) for p in bucket]
        flags = torch.tensor(present, dtype=bucket[0].dtype, device=bucket[0].device)
        averaged = average_(torch.cat([flags, *(g.flatten() for g in gradients)]))
        flags, *parts = averaged.split([len(bucket), *(p.numel() for p in bucket)])
        for parameter, used, mean in zip(bucket, flags.tolist(), parts, strict=True):
            parameter.grad = mean.view_as(parameter) if used else None


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """`parameters` in order, in lists of about `BUCKET` numbers of one kind."""
    ends = accumulate(parameter.numel() for parameter in parameters)
    kinds = [(end // BUCKET, p.dtype, p.device) for end, p in zip(ends, parameters, strict=True)]
    numbered = zip(kinds, parameters, strict=True)
    return [[p for _, p in bucket] for _, bucket in groupby(numbered, key=lambda pair: pair[0])]
