"""Measure further numbers on a quiet device after the search, as latency is.

A new one is one registered function of a model and of one use of it, and an
:class:`sharetune.spaces.objectives.Objective` of the same name whose source is ``quiet``.
"""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.registry import Registry
from sharetune.trainers.measuring.latency import Run, exclusive

QUIET: Registry[Callable[[PreTrainedModel, Run], float]] = Registry(
    "quiet number", declared=OBJECTIVES
)
"""``(model, one use of it) -> number``; raises :class:`ModelError` where it cannot be measured."""

RESET_PEAK = "5"
"""The word for ``clear_refs`` by which Linux forgets a process's highest resident memory."""


def quiet_numbers(model: PreTrainedModel, use: Run) -> dict[str, float]:
    """Measure every registered number of `model`, by name, while no other is measured.

    `use` uses the model once. What cannot be measured here is left out.
    """
    found = {}
    with torch.inference_mode(), exclusive(model.device):
        for name, measure in QUIET.items():
            with suppress(ModelError):
                found[name] = float(measure(model, use))
    return found


@QUIET.register("peak_memory")
def peak_memory(model: PreTrainedModel, use: Run) -> float:
    """bytes by which memory rises at most during one use: of the GPU, else resident memory"""
    use()  # what a first use leaves behind, such as kernels' workspaces, is no part of a use
    gc.collect()
    return _gpu_rise(model.device, use) if model.device.type == "cuda" else _resident_rise(use)


def _gpu_rise(device: torch.device, use: Run) -> float:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    use()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device) - before)


def _resident_rise(use: Run) -> float:
    _return_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        before = _status("VmRSS")
    except OSError as error:
        raise ModelError(
            f"the peak of resident memory cannot be measured here: {error}",
            "measure on Linux, or on a GPU",
        ) from None
    use()
    return float(max(0, _status("VmHWM") - before))


def _return_free_memory() -> None:
    """Give what the allocator keeps back to the system, so that a use has to ask for it again."""
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> int:
    """Return a size in bytes that Linux gives for this process."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])
