"""Logs a trial's curve, its candidate and its metrics with the tracker a team already has.

Everything is written under the trial's number into the run's ``tracking`` folder, without network.
A tracker is one function that opens a trial and gives the library's own callback for it, and
afterwards takes the metrics.
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


@dataclass(frozen=True)
class Tracked:
    """What is logged: the study's name, the trial's number, its candidate as plain data, and the
    folder for everything."""

    study: str
    number: str
    candidate: dict[str, Any]
    folder: Path


Tracker = Callable[[Tracked], AbstractContextManager[tuple[TrainerCallback, Log]]]
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


def check_trackers(names: Sequence[str]) -> None:
    """Raises :class:`ConfigError` for a tracker that is unknown or whose library lacks."""
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
    """Callbacks for the training of a trial, and what takes its metrics; none for no names."""
    with ExitStack() as open_trackers:
        pairs = [open_trackers.enter_context(TRACKERS[name](tracked)) for name in names]
        yield [callback for callback, _ in pairs], [log for _, log in pairs]
