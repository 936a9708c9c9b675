"""The request and the result of a latency measurement; `trainers/measuring/` measures."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LatencyRequest:
    """A latency protocol: one example of `max_length` tokens, in turns with the unshared model.

    There are `rounds` turns. `throughput` also times a batch of that many examples, `onnx` also
    times the exported model in onnxruntime, `graphs` replays CUDA graphs on a GPU.
    """

    max_length: int
    rounds: int
    threads: int = 1
    throughput: int | None = None
    onnx: bool = False
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
class Latencies:
    """Latencies of one model on a quiet device, and how they were measured.

    `single` is of one example, `throughput` of a batch of `throughput_batch`, `onnx` that of
    onnxruntime with the unshared model's median there; `quiet` holds the numbers of further quiet
    objectives by name.
    """

    single: Compared
    use: str
    written_tokens: int
    request: LatencyRequest
    device: str
    throughput: Compared | None = None
    onnx: Latency | None = None
    onnx_unshared_ms: float | None = None
    quiet: dict[str, float] = field(default_factory=dict)

    def written(self) -> dict[str, Any]:
        """Return the same as the study's attribute (`results/reading/attributes.py`)."""
        found = self.single.written()
        if self.onnx is not None:
            found["forms"]["onnx"] = self.onnx.written()
            found["onnx_unshared_ms"] = self.onnx_unshared_ms
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
