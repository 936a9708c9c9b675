"""Settings of Ray that it has no public switch for."""

from ray._private import ray_constants
from ray.tune.execution import class_cache

from sharetune.search.pinned.versions import is_known


def set_reachable(by_other_machines: bool) -> None:
    """Let Ray's servers listen on all addresses, or on localhost alone."""
    ray_constants.ENABLE_RAY_CLUSTER = by_other_machines


def reuse_started_workers() -> None:
    """Let trials run in the processes that Ray starts with the cluster.

    Ray Tune asks for environment variables of its own (they switch off a fork in PyTorch
    Lightning), which no process that is already running has, so that each trial would wait for
    a new one and for its imports: 5 s on 2 cores.
    """
    if is_known("ray"):
        class_cache.DEFAULT_ENV_VARS.clear()
