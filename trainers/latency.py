"""How long one use of a model takes, against the unshared model, on a quiet device.

Models run in turns (A B C, B C A, ...), so that whatever slows the machine slows all of them and
none always comes after the same one. Medians and ratios come with 95 % bootstrap intervals over
the rounds; no round is left out. How much the reference alone changed from the first third of the
rounds to the last is told as drift: of the clock, of heat, or of something else that runs.
"""

import fcntl
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

RESAMPLES = 1000

Use = Callable[[PreTrainedModel, dict[str, Tensor]], object]


@dataclass(frozen=True)
class Latency:
    """Median of the rounds and ratio to the reference's median, with 95 % intervals."""

    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float

    def written(self) -> dict[str, float]:
        """As plain data, rounded to what can be meant."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def time_in_turns(
    runs: dict[str, Callable[[], object]], *, rounds: int, warmup: int, cuda: bool = False
) -> dict[str, list[float]]:
    """Milliseconds of each run in each round, after `warmup` rounds that are not counted.

    Each round starts with the next run. Garbage is collected before, and not in between.
    """
    clock = _cuda_ms if cuda else _wall_ms
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    with _no_garbage_collection():
        for turn in range(warmup + rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                elapsed = clock(runs[name])
                if turn >= warmup:
                    times[name].append(elapsed)
    return times


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def exclusive(device: torch.device) -> Iterator[None]:
    """Waits until no other measurement of this machine's user runs on `device`, and holds it."""
    name = f"sharetune-latency-{os.getuid()}-{str(device).replace(':', '-')}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wall_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _cuda_ms(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def summarise(times: list[float], reference: list[float]) -> Latency:
    """Medians with bootstrap intervals over rounds; rounds are resampled in pairs."""
    rng = np.random.default_rng(0)
    mine, theirs = np.asarray(times), np.asarray(reference)
    picks = rng.integers(0, len(mine), (RESAMPLES, len(mine)))
    medians = np.median(mine[picks], axis=1)
    ratios = medians / np.median(theirs[picks], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    ratio_low, ratio_high = np.percentile(ratios, [2.5, 97.5])
    median = float(np.median(mine))
    ratio = median / float(np.median(theirs))
    return Latency(median, float(low), float(high), ratio, float(ratio_low), float(ratio_high))


def drift(times: list[float]) -> float:
    """By what fraction the median of the last third of the rounds lies above the first third's.

    0 for fewer than three rounds.
    """
    third = len(times) // 3
    if not third:
        return 0.0
    return float(np.median(times[-third:]) / np.median(times[:third]) - 1)


@dataclass(frozen=True)
class Comparison:
    """Latency by model, and the :func:`drift` of the reference while they were measured."""

    models: dict[str, Latency]
    drift: float


def compare(
    models: dict[str, PreTrainedModel],
    reference: str,
    inputs: dict[str, Tensor],
    *,
    use: Use = lambda model, inputs: model(**inputs),
    rounds: int = 40,
    warmup: int = 5,
) -> Comparison:
    """Latency of every model used once on `inputs`, against `models[reference]`; without `use`
    that is one forward pass."""
    device = next(models[reference].parameters()).device
    batch = {name: tensor.to(device) for name, tensor in inputs.items()}
    with torch.inference_mode(), exclusive(device):
        times = time_in_turns(
            {name: partial(use, model.eval(), batch) for name, model in models.items()},
            rounds=rounds,
            warmup=warmup,
            cuda=device.type == "cuda",
        )
    found = {name: summarise(own, times[reference]) for name, own in times.items()}
    return Comparison(found, drift(times[reference]))
