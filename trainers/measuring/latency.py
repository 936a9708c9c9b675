"""Measure the latency of models against the unshared model, on a quiet device.

Models run in turns, each turn followed by the same turn backwards (A B C, C B A, B C A, A C B,
...), so that anything that slows the machine slows all of them and none always follows the same
one. A ratio is the median of the rounds' own ratios, so that slow changes of the clock rate cancel.
Medians and ratios have 95 % bootstrap intervals over the rounds; no round is left out. While a
ratio's interval is wider than 2 % of it, more rounds follow, up to four times the number asked for.
Two numbers describe disturbances: drift, the change of the reference from the first third of the
rounds to the last (by clock rate or heat), and preempted, the fraction of all uses during which the
system took the processor away.
"""

import fcntl
import gc
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.spaces.latency import Latency

RESAMPLES = 1000
"""Bootstrap resamples: enough for two digits of a 95 % interval."""

TARGET_WIDTH = 0.02
"""Width of a ratio's interval, as a fraction of it, at which measuring stops."""

MAX_ROUNDS_FACTOR = 4
"""Most rounds, as a multiple of the number asked for, before measuring stops anyhow."""

MOST_S = 60.0
"""Seconds of rounds after which none are added for the sake of precision."""

WARM_S = 5.0
"""Seconds of uncounted rounds after which no more are run: caches are warm by then."""

CAPTURE_WARMUP = 3
"""Runs before capture, as PyTorch's documentation of CUDA graphs does."""

Run = Callable[[], object]
"""One run of a model, to be timed."""


@dataclass(frozen=True)
class SelfTimed:
    """A run that a runtime times by its own clock, as one in another process does.

    `ms` runs it and returns the milliseconds that it took.
    """

    ms: Callable[[], float]

    def __call__(self) -> float:
        """Run it once."""
        return self.ms()


Use = Callable[[PreTrainedModel, dict[str, Tensor]], object]
"""``(model, inputs) -> output``, one use of a model such as a forward pass."""


def time_in_turns(
    runs: Mapping[str, Run], *, rounds: int, warmup: int, cuda: bool = False
) -> dict[str, list[float]]:
    """Return the milliseconds of each run in each round, after `warmup` uncounted rounds.

    Garbage is collected before the rounds, and not between them.
    """
    clock = _cuda_ms if cuda else _wall_ms
    times: dict[str, list[float]] = {name: [] for name in runs}
    with _no_garbage_collection():
        for turn in range(-warmup, rounds):
            for name in _order(list(runs), turn + warmup):
                elapsed = clock(runs[name])
                if turn >= 0:
                    times[name].append(elapsed)
    return times


def _order(names: list[str], turn: int) -> list[str]:
    """Return the names in the order of one turn.

    Every second turn is the one before it backwards; every pair starts with the next name.
    """
    first = turn // 2 % len(names)
    order = names[first:] + names[:first]
    return order[::-1] if turn % 2 else order


def times_preempted() -> int:
    """Return how often the system has taken the processor from this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


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
    """Lock `device`, within the context, against other measurements of this machine's user."""
    name = f"sharetune-latency-{os.getuid()}-{str(device).replace(':', '-')}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wall_ms(run: Run) -> float:
    if isinstance(run, SelfTimed):
        return run.ms()
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _cuda_ms(run: Run) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def summarise(times: list[float], reference: list[float]) -> Latency:
    """Return medians of times, and of ratios by round, with bootstrap intervals over rounds."""
    ratios = np.asarray(times) / np.asarray(reference)
    return Latency(*_median(np.asarray(times)), *_median(ratios))


def _median(values: np.ndarray) -> tuple[float, float, float]:
    """Return the median and its 95 % percentile interval, which is the median for one value."""
    middle = float(np.median(values))
    if len(values) == 1:
        return middle, middle, middle
    rng = np.random.default_rng(0)
    found = bootstrap((values,), np.median, n_resamples=RESAMPLES, method="percentile", rng=rng)
    return middle, float(found.confidence_interval.low), float(found.confidence_interval.high)


def drift(times: list[float]) -> float:
    """Return the relative change of the median from the first to the last third of the rounds.

    0 for fewer than three rounds.
    """
    third = len(times) // 3
    if not third:
        return 0.0
    return float(np.median(times[-third:]) / np.median(times[:third]) - 1)


@dataclass(frozen=True)
class Comparison:
    """Latencies by model, the number of rounds, and disturbances meanwhile.

    `drift` is the reference's, see :func:`drift`. `preempted` is how often, per use, the processor
    was taken away: 0..1, more if several times in one use.
    """

    models: dict[str, Latency]
    rounds: int
    drift: float
    preempted: float


def compare(
    runs: Mapping[str, Run],
    reference: str,
    device: torch.device,
    *,
    rounds: int = 40,
    warmup: int = 5,
) -> Comparison:
    """Measure every run on `device` against ``runs[reference]``, in `rounds` or more.

    At most `warmup` uncounted rounds come before. Rounds are added until ratios are precise, or a
    minute has passed.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode(), exclusive(device):
        _warm_up(runs, warmup)
        taken, before, began = 0, times_preempted(), time.monotonic()
        while True:
            more = time_in_turns(runs, rounds=rounds, warmup=0, cuda=device.type == "cuda")
            taken += rounds
            times = {name: own + more[name] for name, own in times.items()}
            found = {name: summarise(own, times[reference]) for name, own in times.items()}
            enough = taken >= MAX_ROUNDS_FACTOR * rounds or time.monotonic() - began >= MOST_S
            if enough or all(map(_is_precise, found.values())):
                break
    preempted = (times_preempted() - before) / (len(runs) * taken)
    return Comparison(found, taken, drift(times[reference]), preempted)


def _warm_up(runs: Mapping[str, Run], rounds: int) -> None:
    began = time.monotonic()
    for done in range(rounds):
        if done and time.monotonic() - began >= WARM_S:
            break
        for run in runs.values():
            run()


def _is_precise(latency: Latency) -> bool:
    return latency.ratio_high - latency.ratio_low <= TARGET_WIDTH * latency.ratio


def one_pass(model: PreTrainedModel, inputs: dict[str, Tensor]) -> object:
    """Run one forward pass."""
    return model(**inputs)


def uses(
    models: Mapping[str, PreTrainedModel], inputs: dict[str, Tensor], use: Use = one_pass
) -> dict[str, Run]:
    """Return, by name, one use of each model on `inputs`, moved to its device."""
    return {
        name: partial(use, model.eval(), {key: x.to(model.device) for key, x in inputs.items()})
        for name, model in models.items()
    }


def replayed(run: Run) -> Run:
    """Return `run` captured as a CUDA graph, which runs without Python and single launches.

    Raises :class:`ModelError` for a run that waits for the device, such as text generation, which
    cannot be captured.
    """
    # capture needs caches that were warmed up on a stream other than the default one
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(CAPTURE_WARMUP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.inference_mode(), torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        raise ModelError(
            f"this use of the model cannot be captured as a CUDA graph: {error}",
            "leave out latency.graphs",
        ) from error
    return graph.replay
