"""Measure the latency of a candidate's model, used as its task uses it."""

import copy
import platform
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.errors import ModelError
from sharetune.spaces.latency import Compared, Latencies, Latency, LatencyRequest
from sharetune.trainers.exports.base import export
from sharetune.trainers.exports.onnx import onnx_run
from sharetune.trainers.measuring import latency
from sharetune.trainers.measuring.quiet import quiet_numbers
from sharetune.trainers.models.sharing import materialize_unchecked_
from sharetune.trainers.tasks.base import PreparedTask

FORMS = ("stored", "materialised")
"""Layouts of a shared model in memory: each bank once, or every layer with its own matrices."""

FEWEST_ROUNDS = 3
"""Fewest rounds that time a batch, which gets a third of the rounds of one example."""

BATCH_WARMUP = 2
"""Rounds of a batch that are not counted: its shapes are new to caches and kernels."""

Models = Mapping[str, PreTrainedModel]


def measured_latency(
    task: PreparedTask, stored: PreTrainedModel, request: LatencyRequest
) -> Latencies:
    """Time `stored`, as it is and materialised, in turns with the task's unshared model.

    Where CUDA graphs cannot capture the use, or onnxruntime cannot hold the model, these parts of
    `request` are left out.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    request = replace(request, graphs=request.graphs and device == "cuda")
    models = {
        UNSHARED: task.load_as_saved().to(device),
        "stored": stored.to(device),
        "materialised": materialize_unchecked_(copy.deepcopy(stored)),
    }
    single = _compared(task, models, 1, request, rounds=request.rounds)
    onnx, onnx_unshared_ms = _in_onnxruntime(task, models, request)
    return Latencies(
        single=single,
        use=task.task.used(stored, request.max_length),
        written_tokens=task.task.written(stored),
        request=request,
        device=device_name(),
        throughput=_throughput(task, models, request),
        onnx=onnx,
        onnx_unshared_ms=onnx_unshared_ms,
        quiet=_quiet_numbers(task, models["stored"], request),
    )


def _quiet_numbers(
    task: PreparedTask, stored: PreTrainedModel, request: LatencyRequest
) -> dict[str, float]:
    """Further quiet objectives of the stored model, used on one example."""
    sample = task.task.sample(stored, 1, request.max_length)
    (use,) = latency.uses({"stored": stored}, sample, task.task.use).values()
    return quiet_numbers(stored, use)


def device_name() -> str:
    """Return the accelerator's name, or the processor's architecture."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def _throughput(task: PreparedTask, models: Models, request: LatencyRequest) -> Compared | None:
    if request.throughput is None:
        return None
    rounds = max(FEWEST_ROUNDS, request.rounds // 3)
    turns = {"rounds": rounds, "warmup": BATCH_WARMUP}
    return _compared(task, models, request.throughput, request, **turns)


def _compared(
    task: PreparedTask, models: Models, batch_size: int, request: LatencyRequest, **turns: int
) -> Compared:
    """Time each model on a batch of full length, in turns."""
    sample = task.task.sample(models[UNSHARED], batch_size, request.max_length)
    device = models[UNSHARED].device
    runs = latency.uses(models, sample, task.task.use)
    timed_by = "CUDA events" if device.type == "cuda" else "wall clock"
    if request.graphs:
        with suppress(ModelError):
            runs = {name: latency.replayed(run) for name, run in runs.items()}
            timed_by += ", CUDA graphs"
    found = latency.compare(runs, UNSHARED, device, **turns)
    return Compared(
        forms={name: found.models[name] for name in FORMS},
        unshared_ms=found.models[UNSHARED].median_ms,
        rounds_taken=found.rounds,
        drift=round(found.drift, 4),
        preempted=round(found.preempted, 4),
        timed_by=timed_by,
    )


def _in_onnxruntime(
    task: PreparedTask, models: Models, request: LatencyRequest
) -> tuple[Latency | None, float | None]:
    """Time the stored and the unshared model in onnxruntime on the CPU, with torch's thread count.

    Returns the stored model's latency and the unshared one's median in ms, or two None.
    """
    if not request.onnx:
        return None, None
    with suppress(ModelError):
        return _exported(models, task.task.sample(models[UNSHARED], 1, request.max_length), request)
    return None, None


def _exported(
    models: Models, sample: dict[str, Tensor], request: LatencyRequest
) -> tuple[Latency, float]:
    with tempfile.TemporaryDirectory() as scratch:
        runs = {}
        for name in (UNSHARED, "stored"):
            folder = Path(scratch) / name
            export(copy.deepcopy(models[name]).cpu(), folder, "onnx")
            runs[name] = onnx_run(folder, sample, threads=torch.get_num_threads())
        cpu = torch.device("cpu")
        found = latency.compare(runs, UNSHARED, cpu, rounds=request.rounds).models
    return found["stored"], round(found[UNSHARED].median_ms, 5)
