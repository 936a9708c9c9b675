"""Measure how much memory something takes, and how much is free."""

import ctypes
import gc
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from sharetune.spaces.errors import ModelError

RESET_PEAK = "5"
"""The word for ``clear_refs`` by which Linux forgets a process's highest resident memory."""

GROUP = Path("/sys/fs/cgroup")
"""Folder in which Linux gives the memory that a container may use, and uses."""


def memory_rise(device: torch.device, use: Callable[[], object]) -> float:
    """Return the bytes by which `use` raises memory at most: of the GPU, else resident memory.

    Raises :class:`ModelError` where that cannot be measured.
    """
    gc.collect()
    return _gpu_rise(device, use) if device.type == "cuda" else _resident_rise(use)


def memory_held(device: torch.device) -> int:
    """Return the bytes that this process holds now: of the GPU, else resident memory; else 0."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(ModelError):
        return _sizes("/proc/self/status")["VmRSS"]
    return 0


def free_memory(device: torch.device) -> float:
    """Return the free bytes of a GPU, or of this machine those for one worker.

    Workers are as many as there are processor cores for this one's threads. Raises
    :class:`ModelError` where that is not known.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(
            free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        )
    workers = max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    return min([_sizes("/proc/meminfo")["MemAvailable"], *_free_of_container()]) / workers


def _free_of_container() -> list[float]:
    """Return the free bytes of the container that this process runs in, if that has a limit."""
    try:
        most, used = ((GROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return [max(0.0, float(most) - float(used))]
    except (OSError, ValueError):  # none, or "max"
        return []


def _gpu_rise(device: torch.device, use: Callable[[], object]) -> float:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    use()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device) - before)


def _resident_rise(use: Callable[[], object]) -> float:
    return_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        before = _sizes("/proc/self/status")["VmRSS"]
    except OSError as error:
        raise ModelError(
            f"the peak of resident memory cannot be measured here: {error}",
            "measure on Linux, or on a GPU",
        ) from None
    use()
    return float(max(0, _sizes("/proc/self/status")["VmHWM"] - before))


def return_free_memory() -> None:
    """Give what the allocator keeps back to the system; threads that have ended leave much."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _sizes(path: str) -> dict[str, int]:
    """Return the sizes in bytes, by name, in a file of Linux whose lines are ``Name: 5 kB``."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except OSError as error:
        raise ModelError(f"free memory is not known here: {error}", "use Linux, or a GPU") from None
    pairs = [line.split(":", 1) for line in lines if line.endswith(" kB")]
    return {name: 1024 * int(size.split()[0]) for name, size in pairs}
