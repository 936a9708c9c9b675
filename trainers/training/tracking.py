"""Log a trial's curve, candidate and metrics with a tracker that a team already uses.

Everything is written under the trial's number into the run's ``tracking`` folder, without network.
A tracker is one function that opens a trial and yields the library's own callback for it, and a
function that logs the trial's metrics at its end.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.registry import Registry

Log = Callable[[Mapping[str, float]], None]
"""Logs a trial's metrics, by name."""


@dataclass(frozen=True)
class Tracked:
    """A trial to log: study name, trial number, candidate as plain data, and folder to write to."""

    study: str
    number: str
    candidate: dict[str, Any]
    folder: Path


Tracker = Callable[[Tracked], AbstractContextManager[tuple[TrainerCallback, Log]]]
"""Opens a trial and yields the library's callback for it, and its metric logger."""

TRACKERS: Registry[Tracker] = Registry("tracker")


@TRACKERS.register("tensorboard")
@contextmanager
def tensorboard(tracked: Tracked) -> Iterator[tuple[TrainerCallback, Log]]:
    """event files, one folder a trial; needs sharetune[tensorboard]"""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    folder = tracked.folder / "tensorboard" / tracked.number
    text = f"```yaml\n{yaml.safe_dump(tracked.candidate, sort_keys=False)}```"
    writer = SummaryWriter(folder)
    writer.add_text("candidate", text)

    def log(metrics: Mapping[str, float]) -> None:
        with SummaryWriter(folder) as after:
            for name, value in metrics.items():
                after.add_scalar(f"test/{name}", value)

    yield TensorBoardCallback(writer), log


@TRACKERS.register("wandb")
@contextmanager
def wandb(tracked: Tracked) -> Iterator[tuple[TrainerCallback, Log]]:
    """Weights & Biases, offline unless WANDB_MODE says otherwise; needs sharetune[wandb]"""
    import wandb as library
    from transformers.integrations import WandbCallback

    tracked.folder.mkdir(parents=True, exist_ok=True)
    run = library.init(
        project=tracked.study,
        name=tracked.number,
        config=tracked.candidate,
        dir=tracked.folder,
        mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
    )
    try:
        yield WandbCallback(), lambda metrics: run.summary.update(dict(metrics))
    finally:
        run.finish()


@TRACKERS.register("mlflow")
@contextmanager
def mlflow(tracked: Tracked) -> Iterator[tuple[TrainerCallback, Log]]:
    """MLflow, into files unless MLFLOW_TRACKING_URI names a server; needs sharetune[mlflow]"""
    import mlflow as library
    from transformers.integrations import MLflowCallback

    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        library.set_tracking_uri((tracked.folder / "mlflow").resolve().as_uri())
    library.set_experiment(tracked.study)
    with library.start_run(run_name=tracked.number):
        library.log_dict(tracked.candidate, "candidate.yaml")
        yield MLflowCallback(), lambda metrics: library.log_metrics(dict(metrics))


NEEDED = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Package that each tracker imports; a tracker that is not listed needs the one of its own name."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise :class:`ConfigError` for an unknown tracker or one whose library is not installed."""
    for name in names:
        TRACKERS[name]
        if find_spec(NEEDED.get(name, name)) is None:
            raise ConfigError(
                f"tracking: {name} needs a library that is not installed",
                f"pip install 'sharetune[{name}]'",
            )


@contextmanager
def tracking(
    names: Sequence[str], tracked: Tracked
) -> Iterator[tuple[list[TrainerCallback], list[Log]]]:
    """Open a trial in each named tracker; yield its training callbacks and its metric loggers."""
    with ExitStack() as open_trackers:
        pairs = [open_trackers.enter_context(TRACKERS[name](tracked)) for name in names]
        yield [callback for callback, _ in pairs], [log for _, log in pairs]
