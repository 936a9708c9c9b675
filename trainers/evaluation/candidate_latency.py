"""Measure the latency of a candidate's model, used as its task uses it."""

import copy
import platform
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.errors import ModelError
from sharetune.spaces.latency import Compared, InRuntime, Latencies, LatencyRequest
from sharetune.trainers.exports.base import Uses, export, needs_of
from sharetune.trainers.measuring import latency
from sharetune.trainers.measuring.quiet import Usage, Writing, quiet_numbers
from sharetune.trainers.models.sharing import is_shared, materialize_unchecked_
from sharetune.trainers.tasks.base import PreparedTask

FORMS = ("stored", "materialised")
"""Layouts of a shared model in memory: each bank once, or every layer with its own matrices."""

FEWEST_ROUNDS = 3
"""Fewest rounds that time a batch or writing, which get a third of the rounds of one example."""

BATCH_WARMUP = 2
"""Rounds of a batch that are not counted: its shapes are new to caches and kernels."""

Models = Mapping[str, PreTrainedModel]


def measured_latency(
    task: PreparedTask, stored: PreTrainedModel, request: LatencyRequest
) -> Latencies:
    """Time `stored`, as it is and materialised, in turns with the task's unshared model.

    Where CUDA graphs cannot capture the use, that part of `request` is left out.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    request = replace(request, graphs=request.graphs and device == "cuda")
    models = {
        UNSHARED: task.load_as_saved().to(device),
        "stored": stored.to(device),
        "materialised": materialize_unchecked_(copy.deepcopy(stored)),
    }
    single = _compared(task, models, 1, request, rounds=request.rounds)
    runtimes, refused = _in_runtimes(task, models, request)
    return Latencies(
        single=single,
        use=task.task.used(stored, request.max_length),
        written_tokens=task.task.written(stored),
        request=request,
        device=device_name(),
        throughput=_throughput(task, models, request),
        runtimes=runtimes,
        refused=refused,
        quiet=_quiet_numbers(task, models["stored"], request),
    )


def _quiet_numbers(
    task: PreparedTask, stored: PreTrainedModel, request: LatencyRequest
) -> dict[str, float]:
    """Further quiet objectives of the stored model, used on one example."""
    sample = task.task.sample(stored, 1, request.max_length)
    inputs = {name: tensor.to(stored.device) for name, tensor in sample.items()}
    run = partial(task.task.use, stored.eval(), inputs)
    return quiet_numbers(stored, Usage(run, _writing(task, stored, inputs, request)))


def _writing(
    task: PreparedTask, stored: PreTrainedModel, inputs: dict[str, Tensor], request: LatencyRequest
) -> Writing | None:
    """Return how the stored model writes, to be timed; None for a task that writes nothing."""
    tokens = task.task.written(stored)
    if tokens < 2:
        return None
    first = partial(task.task.write, stored, inputs, 1)
    whole = partial(task.task.write, stored, inputs, tokens)
    try:
        read = _tokens_read(stored, inputs, first)
    except ModelError:  # a task that only says how it is used
        return None
    return Writing(whole, first, tokens, read, _few(request), stored.device.type == "cuda")


def _tokens_read(
    model: PreTrainedModel, inputs: dict[str, Tensor], first: Callable[[], Tensor]
) -> int | None:
    """Return how many tokens a model reads before it writes; None where it reads sound."""
    if model.config.is_encoder_decoder:
        return inputs["input_ids"].shape[-1] if model.main_input_name == "input_ids" else None
    with torch.inference_mode():
        return first().shape[-1] - 1


def device_name() -> str:
    """Return the accelerator's name, or the processor's architecture."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def _throughput(task: PreparedTask, models: Models, request: LatencyRequest) -> Compared | None:
    if request.throughput is None:
        return None
    turns = {"rounds": _few(request), "warmup": BATCH_WARMUP}
    return _compared(task, models, request.throughput, request, **turns)


def _few(request: LatencyRequest) -> int:
    """Return the rounds of what is timed besides single examples."""
    return max(FEWEST_ROUNDS, request.rounds // 3)


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


def _in_runtimes(
    task: PreparedTask, models: Models, request: LatencyRequest
) -> tuple[dict[str, dict[str, InRuntime]], dict[str, str]]:
    """Time the stored and the unshared model as exports, on the CPU.

    Returns latencies by format and use, and by format why it cannot hold the model.
    """
    sample = task.task.sample(models[UNSHARED], 1, request.max_length)
    found, refused = {}, {}
    for form in request.forms:
        try:
            found[form] = _in_runtime(models, sample, form, request)
        except ModelError as error:
            refused[form] = error.message
    return found, refused


def _in_runtime(
    models: Models, sample: dict[str, Tensor], form: str, request: LatencyRequest
) -> dict[str, InRuntime]:
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        uses: dict[str, Uses] = {}
        for name in (UNSHARED, "stored"):
            model, folder = copy.deepcopy(models[name]).cpu(), Path(scratch) / name
            alone = needs_of(form).sharing and not is_shared(model)
            exported = export(model, folder, "dense" if alone else form)
            if exported.uses is None:
                raise ModelError("the format does not say what is timed of it", "leave it out")
            uses[name] = exported.uses(folder, sample, threads)
        latencies = {}
        for use in uses[UNSHARED]:
            runs = {name: own[use] for name, own in uses.items()}
            timed = latency.compare(runs, UNSHARED, cpu, rounds=request.rounds).models
            latencies[use] = InRuntime(timed["stored"], timed[UNSHARED].median_ms)
    return latencies
