"""Compute the cost of a search: core hours or accelerator hours."""

import pandas as pd

from sharetune.results.reading.study import StudyRecord

PROCESSORS = {"x86_64", "amd64", "aarch64", "arm64", "i686", "ppc64le", "riscv64", "s390x"}
"""Devices, as `platform.machine` names them, that are no accelerator."""

SECONDS_PER_HOUR = 3600.0
"""For changing device seconds into hours."""


def seconds_of_compute(study: StudyRecord) -> pd.Series:
    """Return the device seconds of each trial, by its number.

    They are wall-clock seconds on an accelerator, core seconds (times the threads) elsewhere.
    Trials answered from memory cost nothing; unknown times are 0.
    """
    frame = study.frame.set_index("number")
    seconds = frame["total_s"].where(frame["same_as"].isna(), 0.0).fillna(0.0)
    if on_accelerator(study):
        return seconds
    threads = study.circumstances.get("threads")
    return seconds * (float(threads) if isinstance(threads, int | float) else 1.0)


def on_accelerator(study: StudyRecord) -> bool:
    """Return whether the trials ran on an accelerator, by the device they state."""
    stated = (
        str(found["device"])
        for found in [*study.frame["circumstances"], study.circumstances]
        if isinstance(found, dict) and found.get("device")
    )
    device = next(stated, None)
    return device is not None and device.lower() not in PROCESSORS


def hours_text(study: StudyRecord, seconds: float) -> str:
    """Write device seconds in hours: ``0.08 CPU-hours``, ``12.4 GPU-hours``."""
    return f"{hours_number(seconds)} {hours_unit(study)}"


def hours_number(seconds: float) -> str:
    """Write seconds as a number of hours, to two decimals, from ten hours on to one."""
    hours = seconds / SECONDS_PER_HOUR
    return f"{hours:.2f}" if hours < 10 else f"{hours:,.1f}"


def hours_unit(study: StudyRecord) -> str:
    """Return the unit of a study's cost: ``CPU-hours`` or ``GPU-hours``."""
    return "GPU-hours" if on_accelerator(study) else "CPU-hours"
