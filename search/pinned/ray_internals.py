"""Change settings of Ray that it has no public switch for."""

from typing import Any

import ray
from ray._private import ray_constants, worker
from ray.tune.execution import class_cache

from sharetune.search.pinned.versions import is_known


def set_reachable(by_other_machines: bool) -> None:
    """Let Ray's servers listen on all addresses, or on localhost alone."""
    ray_constants.ENABLE_RAY_CLUSTER = by_other_machines


def addresses() -> dict[str, str]:
    """Return where the processes that the connected cluster needs listen, by what they are.

    That is a ``host:port``, or the path of a socket; only the first where Ray's own are not known.
    """
    found = {"control service": str(ray.get_runtime_context().gcs_address)}
    node = worker._global_node if is_known("ray") else None
    return found if node is None else found | {"raylet": node.raylet_socket_name}


def reuse_started_workers() -> None:
    """Let trials run in the processes that Ray starts with the cluster.

    Ray Tune asks for environment variables of its own (they switch off a fork in PyTorch
    Lightning), which no process that is already running has, so that each trial would wait for
    a new one and for its imports: 5 s on 2 cores.
    """
    if is_known("ray"):
        class_cache.DEFAULT_ENV_VARS.clear()


def forget(trial: Any) -> None:
    """Drop what Ray Tune keeps of a trial that has ended: configuration, results, resources.

    It keeps its trials for as long as it runs, so that a long search would grow.
    """
    if is_known("ray"):
        trial.config = trial._Trial__unresolved_config = trial.evaluated_params = {}
        trial.experiment_tag, trial.placement_group_factory = "", None
        kept = trial.run_metadata
        kept.last_result, kept.metric_analysis, kept.metric_n_steps = {}, {}, {}
