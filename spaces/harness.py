"""Settings of lm-evaluation-harness, whose tasks are objectives named ``lm_eval:TASK``."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from sharetune.spaces.paths import expanded
from sharetune.spaces.settings import StrictModel

PREFIX = "lm_eval:"
"""Beginning of the names of objectives that lm-evaluation-harness measures."""


class HarnessSettings(StrictModel):
    """How trained language models do tasks of lm-evaluation-harness.

    Those that objectives and limits name need not be listed.
    """

    tasks: tuple[str, ...] = Field(
        (),
        description="Further tasks, one or a list, whose numbers are kept; `TASK:METRIC` names "
        "another metric than the task's first.",
    )
    include: str | None = Field(
        None,
        description="Folder of task files of one's own, which all workers can read; `null` is "
        "none.",
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="Solved examples before each question; `null`: as a task has it."
    )
    batch_size: int = Field(8, ge=1, description="Requests that a model answers at once.")
    limit: int | None = Field(
        None, ge=1, description="Most examples of a task; `null` is all, which a result needs."
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _one_task(cls, tasks: object) -> Any:
        return (tasks,) if isinstance(tasks, str) else tasks

    def seen_from(self, folder: Path) -> "HarnessSettings":
        """Return the settings with the folder of task files looked up from the study's `folder`."""
        if self.include is None:
            return self
        include = str((folder / expanded(self.include)).resolve())
        return self.model_copy(update={"include": include})


def harness_numbers(names: Iterable[object], tasks: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the harness's numbers among objectives' `names`, and `tasks`, each once.

    They are written ``TASK`` or ``TASK:METRIC``, without the prefix.
    """
    named = (str(name).removeprefix(PREFIX) for name in names if str(name).startswith(PREFIX))
    return tuple(dict.fromkeys([*named, *tasks]))
