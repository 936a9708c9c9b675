"""The request and the result of a latency measurement; `trainers/measuring/` measures."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LatencyRequest:
    """A latency protocol: one example of `max_length` tokens, in turns with the unshared model.

    There are `rounds` turns. `throughput` also times a batch of that many examples, `forms` are
    formats in which the exported model is timed as well, each in its runtime, and `graphs` replays
    CUDA graphs on a GPU.
    """

    max_length: int
    rounds: int
    threads: int = 1
    throughput: int | None = None
    forms: tuple[str, ...] = ()
    graphs: bool = False


@dataclass(frozen=True)
class Latency:
    """Median over the rounds in ms, and of the ratios to the unshared model; 95 % intervals."""

    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float

    def written(self) -> dict[str, float]:
        """Return the same as plain data, rounded to what the clock can tell."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Compared:
    """Latency of the forms of one model ("stored", "materialised"), measured in turns with the
    unshared model.

    `drift` is the change of the unshared median from the first third of the rounds to the last,
    `preempted` how often the system took the processor away, per use.
    """

    forms: dict[str, Latency]
    unshared_ms: float
    rounds_taken: int
    drift: float
    preempted: float
    timed_by: str

    def written(self) -> dict[str, Any]:
        """Return the same as plain data."""
        forms = {name: latency.written() for name, latency in self.forms.items()}
        return {**vars(self), "forms": forms, "unshared_ms": round(self.unshared_ms, 5)}


@dataclass(frozen=True)
class InRuntime:
    """Latency of one use of an export in its runtime, in turns with the unshared model's there,
    whose median is `unshared_ms`."""

    latency: Latency
    unshared_ms: float

    def written(self) -> dict[str, float]:
        """Return the same as plain data."""
        return self.latency.written() | {"unshared_ms": round(self.unshared_ms, 5)}


@dataclass(frozen=True)
class Latencies:
    """Latencies of one model on a quiet device, and how they were measured.

    `single` is of one example, `throughput` of a batch of `throughput_batch`; `runtimes` holds
    those of exports by format and use ("pass", or "prefill" and "decode"), `refused` why a format
    cannot hold the model, and `quiet` the numbers of further quiet objectives by name.
    """

    single: Compared
    use: str
    written_tokens: int
    request: LatencyRequest
    device: str
    throughput: Compared | None = None
    runtimes: dict[str, dict[str, InRuntime]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    quiet: dict[str, float] = field(default_factory=dict)

    def written(self) -> dict[str, Any]:
        """Return the same as the study's attribute (`results/reading/attributes.py`)."""
        found = self.single.written()
        if self.runtimes:
            found["runtimes"] = {
                form: {use: timed.written() for use, timed in uses.items()}
                for form, uses in self.runtimes.items()
            }
        if self.refused:
            found["refused"] = self.refused
        if self.written_tokens:
            found["written_tokens"] = self.written_tokens
        if self.quiet:
            found["quiet"] = self.quiet
        if self.throughput is not None:
            batch = {"batch_size": self.request.throughput}
            found["throughput"] = self.throughput.written() | batch
        return found | {
            "use": self.use,
            "batch_size": 1,
            "max_length": self.request.max_length,
            "rounds": self.request.rounds,
            "device": self.device,
            "threads": self.request.threads,
        }
