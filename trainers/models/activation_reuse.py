"""Reuse the output of one layer's matrix in later layers, within one forward pass.

A handover holds a tensor from the forward of the layer that computes it to that of the last layer
that reads it; every thread has its own. Gradient checkpointing recomputes layers from the top, long
after the forward pass: each replay finds in its handovers what they held when the layer first ran.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sharetune.spaces.errors import ModelError


class Handover(threading.local):
    """The tensor handed on at this moment, if any; a copied model gets empty ones of its own."""

    tensor: Tensor | None = None

    def __reduce__(self) -> tuple[type["Handover"], tuple[()]]:
        return Handover, ()


class Lend:
    """A forward hook that puts a module's output into a handover."""

    def __init__(self, handover: Handover) -> None:
        self.handover = handover

    def __call__(self, _: nn.Module, __: object, output: Tensor) -> None:
        self.handover.tensor = output


class Borrower(nn.Module):
    """A stand-in for a matrix of `shape` (out, in) that returns another layer's output.

    Of a fused matrix only the outputs `rows` are borrowed; the others, in order, are computed by
    `own`. The last reader of a handover empties it. `is_cached` tells that keys and values are
    borrowed, which a cache then holds once.
    """

    def __init__(
        self,
        handover: Handover,
        *,
        rows: Sequence[int],
        own: nn.Linear | None,
        shape: tuple[int, int],
        is_cached: bool = False,
    ) -> None:
        super().__init__()
        self.handover = handover
        self.own = own
        self.is_cached = is_cached
        self.shape = shape
        self.is_last = False
        self.pieces = tuple(_pieces(rows, shape[0]))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the borrowed outputs joined with the layer's own: (..., in) -> (..., out)."""
        borrowed = self.handover.tensor
        if borrowed is None:
            raise ModelError(
                "a layer reuses what an earlier one has not computed in this forward pass",
                "run all layers in order, and replay them by gradient_checkpointing_enable() only",
            )
        if self.is_last:
            self.handover.tensor = None
        if self.own is None:
            return borrowed
        sources = self.own(hidden), borrowed
        parts = [sources[taken][..., start:stop] for taken, start, stop in self.pieces]
        return torch.cat(parts, -1)

    def extra_repr(self) -> str:
        count = sum(stop - start for taken, start, stop in self.pieces if taken)
        return f"borrows {count} of {self.shape[0]} outputs"


def _pieces(rows: Sequence[int], size: int) -> Iterator[tuple[bool, int, int]]:
    """Yield each run of borrowed or own outputs: if borrowed, its start and stop in its source."""
    borrowed, place, own = set(rows), 0, 0
    for taken, run in groupby(range(size), borrowed.__contains__):
        length = len(list(run))
        start = place if taken else own
        yield taken, start, start + length
        place, own = place + length, own + (0 if taken else length)


def handovers(model: nn.Module) -> list[Handover]:
    """Return the model's handovers, each once."""
    borrowers = [module for module in model.modules() if isinstance(module, Borrower)]
    return list({id(b.handover): b.handover for b in borrowers}.values())


Checkpoint = Callable[..., Any]
"""``(function, *args) -> output``, as ``torch.utils.checkpoint.checkpoint``."""


class HandoverCheckpoint:
    """Gradient checkpointing that restores the handovers `held` whenever it replays a function.

    Raises :class:`ModelError` for reentrant checkpointing: it runs the first pass without a graph,
    so that a tensor that is handed on would get no gradient.
    """

    def __init__(self, checkpoint: Checkpoint, held: Sequence[Handover]) -> None:
        if getattr(checkpoint, "keywords", {}).get("use_reentrant"):
            raise ModelError(
                "a plan with reuse cannot be trained with reentrant gradient checkpointing",
                'use gradient_checkpointing_kwargs={"use_reentrant": False}',
            )
        self.checkpoint = checkpoint
        self.held = held

    def __call__(self, function: Callable[..., Any], *args: object) -> Any:
        found = [handover.tensor for handover in self.held]
        is_replay = False

        def run(*args: object) -> Any:
            nonlocal is_replay
            if is_replay:
                with _restored(self.held, found):
                    return function(*args)
            is_replay = True
            return function(*args)

        return self.checkpoint(run, *args)


class HandsOver:
    """The mixin of models whose layers may reuse outputs: checkpointing restores the handovers."""

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, **kwargs: Any
    ) -> None:
        held = handovers(self)  # type: ignore[arg-type]
        if enable and held:
            gradient_checkpointing_func = HandoverCheckpoint(gradient_checkpointing_func, held)
        super()._set_gradient_checkpointing(  # type: ignore[misc]
            enable, gradient_checkpointing_func, **kwargs
        )


@contextmanager
def _restored(held: Sequence[Handover], tensors: Sequence[Tensor | None]) -> Iterator[None]:
    before = [handover.tensor for handover in held]
    for handover, tensor in zip(held, tensors, strict=True):
        handover.tensor = tensor
    try:
        yield
    finally:
        for handover, tensor in zip(held, before, strict=True):
            handover.tensor = tensor
