"""What a study trains for: data, model head, loss and metrics, named as Hugging Face names it.

A new task is one file here with one :class:`Task` registered under its name.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor
from transformers import PreTrainedModel

from spaces.augmentation import Augmentation
from spaces.errors import ConfigError
from spaces.registry import Registry, did_you_mean

TASKS: Registry[type["Task"]] = Registry("task")


@dataclass(frozen=True)
class Split:
    """Examples ready for a model: tokenised rows, and how to make a batch of them.

    `identity` is the same for equal rows, in this process and in any other of the study."""

    rows: Any
    collate: Any
    labels: list[int]
    identity: str


class Task(BaseModel, ABC):
    """Base of all tasks. Fields are the keys of a study's `task` section.

    The driver calls :meth:`prepare` once a study; workers call the rest with the facts it
    returned. `model` is a hub name or a folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str

    @abstractmethod
    def prepare(self, model: str, cache: Path, max_length: int) -> dict[str, Any]:
        """Reads and checks the data, tokenises it into `cache`, returns facts for workers."""

    @abstractmethod
    def load(self, model: str, facts: dict[str, Any]) -> PreTrainedModel:
        """The pretrained model with this task's head."""

    @abstractmethod
    def skeleton(self, model: str, facts: dict[str, Any]) -> PreTrainedModel:
        """The same model on the meta device: shapes without weights."""

    @abstractmethod
    def splits(
        self, model: str, cache: Path, max_length: int, augment: Augmentation | None = None
    ) -> tuple[Split, Split]:
        """The training and the test split, tokenised to at most `max_length` tokens; the training
        split with altered copies of its examples, if asked for."""

    @abstractmethod
    def sample(self, batch_size: int, max_length: int) -> dict[str, Tensor]:
        """Inputs of full length for counting FLOPs and timing."""

    @abstractmethod
    def score(self, logits: Tensor, labels: list[int], facts: dict[str, Any]) -> dict[str, Any]:
        """``{"metrics": {...}, ...}`` of predictions over the test split."""


def read_task(value: dict[str, Any]) -> Task:
    """A study's `task` section. Raises :class:`ConfigError` for an unknown task."""
    from trainers.tasks import text_classification

    assert text_classification, "importing a task's file registers it"
    if "name" not in value:
        raise ConfigError("task needs a name", did_you_mean("", list(TASKS)))
    return TASKS[value["name"]].model_validate(value)
