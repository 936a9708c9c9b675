"""What a search cost: hours of processor or accelerator."""

import pandas as pd

from sharetune.results.reading.study import StudyRecord

PROCESSORS = {"x86_64", "amd64", "aarch64", "arm64", "i686", "ppc64le", "riscv64", "s390x"}
HOUR = 3600.0


def seconds_of_compute(study: StudyRecord) -> pd.Series:
    """Device seconds a trial, by number: its wall-clock seconds, times its threads on a
    processor. Trials answered from memory cost nothing; unknown times are 0."""
    frame = study.frame.set_index("number")
    seconds = frame["total_s"].where(frame["same_as"].isna(), 0.0).fillna(0.0)
    if on_accelerator(study):
        return seconds
    threads = study.circumstances.get("threads")
    return seconds * (float(threads) if isinstance(threads, int | float) else 1.0)


def on_accelerator(study: StudyRecord) -> bool:
    """Whether the trials ran on something other than a processor."""
    stated = (
        str(found["device"])
        for found in [*study.frame["circumstances"], study.circumstances]
        if isinstance(found, dict) and found.get("device")
    )
    device = next(stated, None)
    return device is not None and device.lower() not in PROCESSORS


def hours_text(study: StudyRecord, seconds: float) -> str:
    """``0.08 CPU-hours``, ``12.4 GPU-hours``."""
    return f"{hours_number(seconds)} {unit(study)}"


def hours_number(seconds: float) -> str:
    """Hours to two decimals, from ten on to one."""
    hours = seconds / HOUR
    return f"{hours:.2f}" if hours < 10 else f"{hours:,.1f}"


def unit(study: StudyRecord) -> str:
    """``CPU-hours`` or ``GPU-hours``."""
    return "GPU-hours" if on_accelerator(study) else "CPU-hours"
