"""What is asked of a latency measurement, and what it came to; `trainers/measuring/` measures."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LatencyRequest:
    """How latency is to be measured: on one example of `max_length` tokens, in `rounds` turns with
    the unshared model; `throughput` also times a batch of that many examples, `onnx` also times the
    exported model in onnxruntime, `graphs` replays CUDA graphs on a GPU."""

    max_length: int
    rounds: int
    threads: int = 1
    throughput: int | None = None
    onnx: bool = False
    graphs: bool = False


@dataclass(frozen=True)
class Latency:
    """Median over the rounds in ms, and of the rounds' ratios to the unshared model, each with its
    95 % interval."""

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
    """All that was measured of one model on a quiet device, and how.

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

    @property
    def stored_ms(self) -> float:
        """The median of the model as stored, in ms."""
        return self.single.forms["stored"].median_ms

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
