"""Connect to the Ray cluster that a search runs on, and ask what it has."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sharetune.search.config import StudyConfig
from sharetune.search.gpus import gpu_of_each, most_workers, processor_cores
from sharetune.search.pinned.ray_internals import (
    addresses,
    reuse_started_workers,
    set_reachable,
)
from sharetune.search.progress_bars import stderr_console
from sharetune.search.workers.service_watch import LastWords, ServiceWatch, knock_at
from sharetune.spaces.errors import RunError, SharetuneError
from sharetune.spaces.evaluator import Evaluator, JobResources
from sharetune.spaces.pace import Pace
from sharetune.spaces.plugins import load_plugins
from sharetune.spaces.recipe import Candidate

REACHED_WITHIN_S = 10.0
"""Seconds in which a cluster's address must answer."""

DISCONNECT_S = 30.0
"""Seconds in which workers end, where there is what ends them."""

MOST_PRELOADED = 16
"""CPUs up to which Ray's processes, one a CPU, load the libraries at start: each takes memory."""

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}
"""Environment variables that turn off Ray Tune's own logs, signal handler and checkpoints."""


def connect(address: str | None, config: StudyConfig) -> None:
    """Join the cluster at `address`, or start one on this machine that no other can reach.

    A local cluster's worker processes load the libraries while the search prepares the study.
    """
    os.environ.update(QUIET)
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        cpus = _local_cpus(config)
        options |= {"include_dashboard": False, "num_cpus": cpus}
        set_reachable(by_other_machines=False)
        if cpus <= MOST_PRELOADED:
            os.environ["RAY_preload_python_modules"] = "sharetune.trainers.evaluation.evaluator"  # noqa: SIM112
            reuse_started_workers()
    else:
        set_reachable(by_other_machines=True)
        _require_listener(address)
    _send_by_value(config)
    if config.plugins:
        options["runtime_env"] = {"worker_process_setup_hook": _loader_of(config.plugins)}
    try:
        ray.init(address=address or "local", **options)
    except Exception as error:  # Ray raises bare ones
        raise _unreachable(address, str(error).strip().split("\n")[0]) from error
    if address is None:
        require_gpus(config)


def _send_by_value(config: StudyConfig) -> None:
    """Send functions of the caller's own modules, with their code, to workers.

    There its module need not exist."""
    named = [config.metric.function] if config.metric is not None else []
    named += [str(config.task["collate"])] if config.task.get("collate") else []
    for reference in named:
        module = sys.modules.get(reference.partition(":")[0])
        file = getattr(module, "__file__", None)
        if module is not None and file is not None and "site-packages" not in Path(file).parts:
            ray.cloudpickle.register_pickle_by_value(module)


def _loader_of(plugins: Sequence[str]) -> Callable[[], None]:
    """Return a function that imports the plugins when a worker process starts, before anything
    that they define is unpickled there."""

    def load() -> None:
        load_plugins(plugins)

    return load


def _require_listener(address: str) -> None:
    """Raise :class:`RunError` if nothing listens at a ``host:port``.

    Ray's own attempt takes minutes and may end the process.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        with socket.create_connection((host, int(port)), timeout=REACHED_WITHIN_S):
            pass
    except (OSError, ValueError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str | None, why: str) -> RunError:
    if address is None:
        return RunError(
            f"Ray did not start on this machine: {why}",
            "try again when it is less busy, or train in this process: --set executor=local",
        )
    return RunError(
        f"no Ray cluster at {address}: {why}",
        "start one with `ray start --head`, which prints its address, or leave --address out",
    )


def require_run_folder(run: Path) -> None:
    """Raise :class:`RunError` if one of several nodes does not see the run folder.

    Workers read data from it and write weights to it. A node that leaves meanwhile does not count.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if len(nodes) < 2:
        return
    look: Any = ray.remote(num_cpus=0)(Path.is_dir)
    at = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = [look.options(scheduling_strategy=place).remote(run) for place in at]
    for node, answer in zip(nodes, asked, strict=True):
        with suppress(ray.exceptions.RayError):
            if not ray.get(answer):
                raise RunError(
                    f"the node {node['NodeManagerAddress']} does not see the run folder {run}",
                    "put it on storage that all nodes have at the same place, with --out",
                )


def disconnect() -> None:
    """End the workers of a local cluster; a joined cluster goes on.

    Where Ray's own processes are gone this may take for ever, and is left after a while.
    """
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(DISCONNECT_S)


def rehearse(config: StudyConfig, evaluator: Evaluator, candidate: Candidate) -> Pace | None:
    """Try the candidate on a worker, whose device this process leaves alone.

    Raises :class:`SharetuneError` if no trial could be trained.
    """
    needed = worker_resources(config)
    on_worker: Any = ray.remote(num_cpus=needed["CPU"], num_gpus=needed["GPU"], max_calls=1)
    task = on_worker(_rehearsed)
    found = ray.get(task.remote(evaluator, candidate, JobResources(threads=config.resources.cpu)))
    if isinstance(found, SharetuneError):
        raise found
    return found and replace(found, gpus=int(ray.cluster_resources().get("GPU", 0)))


def _rehearsed(
    evaluator: Evaluator, candidate: Candidate, resources: JobResources
) -> Pace | SharetuneError | None:
    try:
        return evaluator.rehearse(candidate, resources)
    except SharetuneError as error:
        return error


def watched_services(last_words: LastWords) -> ServiceWatch:
    """Watch the processes of Ray that the connected cluster cannot be without."""
    knocks = {name: knock_at(address) for name, address in addresses().items()}
    return ServiceWatch(knocks, last_words)


def worker_resources(config: StudyConfig, pace: Pace | None = None) -> dict[str, float]:
    """Return the CPUs and the fraction of a GPU that each worker gets on the connected cluster.

    Without a `pace`, which tells a training's memory, ``gpu: auto`` is a whole one.
    """
    found = ray.cluster_resources()
    known = pace or Pace(0.0, 0.0, 0.0, 0, gpus=int(found.get("GPU", 0)))
    gpu = gpu_of_each(config, known, int(found.get("CPU", 0)))
    return {"CPU": float(config.resources.cpu), "GPU": gpu}


def capacity(resources: dict[str, float], workers_per_trial: int) -> int:
    """Return the number of trials that the connected cluster can run at once, at least 1.

    A cluster with less than one trial needs may still grow.
    """
    total = ray.cluster_resources()
    fits = [total.get(kind, 0) // need for kind, need in resources.items() if need]
    return max(1, int(min(fits)) // workers_per_trial)


def tell_of_missing(resources: dict[str, float], workers_per_trial: int) -> None:
    """Warn about resources that a joined cluster has too little of, but may grow to."""
    total = ray.cluster_resources()
    for kind, need in resources.items():
        needed, found = need * workers_per_trial, total.get(kind, 0.0)
        if needed > found:
            stderr_console().print(
                f"a trial needs {needed:g} {kind}s, and the cluster has {found:g}: trials wait "
                "until it grows"
            )


def require_gpus(config: StudyConfig) -> None:
    """Raise :class:`RunError` where a trial would wait for GPUs that this machine does not have."""
    need = worker_resources(config)["GPU"] * config.resources.workers_per_trial
    found = ray.cluster_resources().get("GPU", 0.0)
    if need > found:
        raise RunError(
            f"a trial needs {need:g} GPUs, and this machine has {found:g}",
            "lower resources.workers_per_trial or gpu, or join a cluster with --address",
        )


def _local_cpus(config: StudyConfig) -> int:
    per_trial = config.resources.cpu * config.resources.workers_per_trial
    return most_workers(config.resources, processor_cores()) * per_trial
