"""How long one use of a model takes, against the unshared model, on a quiet device.

Models run in turns, each turn followed by the same turn backwards (A B C, C B A, B C A, A C B,
...), so that whatever slows the machine slows all of them and none always comes after the same
one. A ratio is the median of the rounds' own ratios, so that it does not notice a clock that
changes slowly. Medians and ratios come with 95 % bootstrap intervals over the rounds; no round is
left out. While a ratio's interval is wider than 2 % of it, more rounds follow, up to four times as
many as were asked for. What else went on is told: how much the reference alone changed from the
first third of the rounds to the last, as drift (of the clock, of heat), and in what part of all
uses the system took the processor away meanwhile, as preempted.
"""

import fcntl
import gc
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError

RESAMPLES = 1000
WIDEST = 0.02
MOST_TIMES = 4
CAPTURE_WARMUP = 3

Run = Callable[[], object]
Use = Callable[[PreTrainedModel, dict[str, Tensor]], object]


@dataclass(frozen=True)
class Latency:
    """Median of the rounds, and of their ratios to the reference's, with 95 % intervals."""

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
    runs: Mapping[str, Run], *, rounds: int, warmup: int, cuda: bool = False
) -> dict[str, list[float]]:
    """Milliseconds of each run in each round, after `warmup` rounds that are not counted.

    Garbage is collected before, and not in between.
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
    """Every second turn is the one before it backwards; every pair starts with the next name."""
    first = turn // 2 % len(names)
    order = names[first:] + names[:first]
    return order[::-1] if turn % 2 else order


def times_preempted() -> int:
    """How often the system has taken the processor from this process while it had work."""
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
    """Waits until no other measurement of this machine's user runs on `device`, and holds it."""
    name = f"sharetune-latency-{os.getuid()}-{str(device).replace(':', '-')}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wall_ms(run: Run) -> float:
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
    """Medians of times, and of ratios round by round, with bootstrap intervals over rounds."""
    ratios = np.asarray(times) / np.asarray(reference)
    return Latency(*_median(np.asarray(times)), *_median(ratios))


def _median(values: np.ndarray) -> tuple[float, float, float]:
    """The median and its 95 % percentile interval, which is the median for a single value."""
    middle = float(np.median(values))
    if len(values) == 1:
        return middle, middle, middle
    rng = np.random.default_rng(0)
    found = bootstrap((values,), np.median, n_resamples=RESAMPLES, method="percentile", rng=rng)
    return middle, float(found.confidence_interval.low), float(found.confidence_interval.high)


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
    """Latency by name, over how many rounds, and while they were measured the :func:`drift` of
    the reference and how often a use was preempted, 0..1 and more where it was several times."""

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
    """Latency of every run on `device`, against ``runs[reference]``, over `rounds` or more."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    taken, before = 0, times_preempted()
    with torch.inference_mode(), exclusive(device):
        while True:
            more = time_in_turns(
                runs, rounds=rounds, warmup=0 if taken else warmup, cuda=device.type == "cuda"
            )
            taken += rounds
            times = {name: own + more[name] for name, own in times.items()}
            found = {name: summarise(own, times[reference]) for name, own in times.items()}
            if taken >= MOST_TIMES * rounds or all(map(_narrow, found.values())):
                break
    preempted = (times_preempted() - before) / (len(runs) * (taken + warmup))
    return Comparison(found, taken, drift(times[reference]), preempted)


def _narrow(latency: Latency) -> bool:
    return latency.ratio_high - latency.ratio_low <= WIDEST * latency.ratio


def one_pass(model: PreTrainedModel, inputs: dict[str, Tensor]) -> object:
    """One forward pass."""
    return model(**inputs)


def uses(
    models: Mapping[str, PreTrainedModel], inputs: dict[str, Tensor], use: Use = one_pass
) -> dict[str, Run]:
    """Each model used once on `inputs`, which are brought to its device."""
    return {
        name: partial(use, model.eval(), {key: x.to(model.device) for key, x in inputs.items()})
        for name, model in models.items()
    }


def replayed(run: Run) -> Run:
    """`run` captured as a CUDA graph, which is launched as one: without the time that Python and
    the launches of single kernels take.

    Raises :class:`ModelError` for a run that waits for the device on its way, such as one that
    writes text, which cannot be captured.
    """
    stream = torch.cuda.Stream()  # capture wants warm caches of a stream that is not the default
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
