"""Say how many trainings share a GPU, by the memory that a first one held."""

import math
import os

from sharetune.search.config import StudyConfig
from sharetune.search.sections import Resources
from sharetune.spaces.leaves import alternatives
from sharetune.spaces.pace import Pace

BESIDES = 600 * 1024**2
"""Bytes of a GPU that a process takes besides its tensors: CUDA's context and kernels."""

LEFT_FREE = 0.1
"""Part of a GPU that is left free, since candidates differ in what they need."""

DIGITS = 4
"""Decimal places of a fraction of a GPU that Ray keeps."""


def processor_cores() -> int:
    """Return the number of this machine's processor cores."""
    return os.cpu_count() or 1


def most_workers(resources: Resources, cores: int) -> int:
    """Return how many trials run at once at most: as the study says, else as `cores` allow."""
    return resources.workers or max(1, cores // (resources.cpu * resources.workers_per_trial))


def workers_of(config: StudyConfig, pace: Pace | None, cores: int) -> int:
    """Return how many trials run at once on `cores` and on the GPUs of a first training's pace."""
    resources = config.resources
    if config.executor == "local":
        return 1
    most = most_workers(resources, cores)
    each = gpu_of_each(config, pace, cores) if pace is not None and pace.gpus else 0.0
    if pace is None or not each:
        return most
    return max(1, min(most, int(pace.gpus / each) // resources.workers_per_trial))


def workers_here(config: StudyConfig, pace: Pace | None) -> int:
    """Return how many trials run at once on this machine."""
    return workers_of(config, pace, processor_cores())


def gpu_of_each(config: StudyConfig, pace: Pace, cores: int) -> float:
    """Return the part of a GPU that each worker gets, where `cores` can be used; 0 for none.

    With ``resources: {gpu: auto}`` it is one of as many parts as trainings fit into its memory, by
    what the unshared model's held with the largest batch of the space, but no more than there are
    cores, or workers, for each GPU.
    """
    resources = config.resources
    if resources.gpu != "auto":
        whole = 1.0 if pace.gpus and resources.gpu is None else 0.0
        return resources.stated_gpu or whole
    if not pace.gpus or resources.workers_per_trial > 1:
        return float(pace.gpus > 0)
    fitting = min(_fitting(config, pace), math.ceil(most_workers(resources, cores) / pace.gpus))
    return math.floor(10**DIGITS / max(1, fitting)) / 10**DIGITS


def _fitting(config: StudyConfig, pace: Pace) -> int:
    """Return how many trainings with the space's largest batch fit into the memory of a GPU."""
    usual = config.space.reference_recipe().batch_size
    largest = max(alternatives(config.space.recipe.get("batch_size", usual)))
    each = pace.of_batch(largest / usual).memory + BESIDES
    return int((1 - LEFT_FREE) * pace.gpu_memory // each)
