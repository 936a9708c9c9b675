"""Keep what each group of a plan learnt locally, for every candidate of a study that has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from sharetune.spaces.digest import digest
from sharetune.spaces.group import Group
from sharetune.spaces.local_start import LocalStart
from sharetune.spaces.whole_files import remove, written_whole
from sharetune.trainers.models.calibration import Activations
from sharetune.trainers.scoring.editable import Batch, EditableModel
from sharetune.trainers.scoring.local_distillation import Tensors, distil_locally, start_from_
from sharetune.trainers.tasks.base import PreparedTask
from sharetune.trainers.training.teachers import locked

BATCH_TOKENS = 256
"""Tokens of a batch that hidden states are recorded on."""


@dataclass(frozen=True)
class LocalStarts:
    """The weights that groups learnt on examples of `max_length` tokens, kept in the study's cache.

    One process teaches; others wait for it.
    """

    task: PreparedTask
    activations: Activations | None
    settings: LocalStart
    max_length: int

    def start_(self, shared: PreTrainedModel) -> None:
        """Load, in place, what the groups of `shared`'s plan have learnt; teach those that are
        new."""
        groups = [group for group in shared.sharing.plan.groups if group.learns_locally]
        start_from_(shared, {group: self._learnt(group) for group in self._taught(groups)})

    def _taught(self, groups: Sequence[Group]) -> Sequence[Group]:
        folder = self.task.cache / "local"
        with locked(folder / "teaching"):
            new = [group for group in groups if not self._is_learnt(group)]
            if new:
                editable = EditableModel(self.task.load(), self.activations)
                taught = distil_locally(editable, new, self._batches(), self.settings)
                for group, tensors in taught.items():
                    self._keep(group, tensors)
        return groups

    def _keep(self, group: Group, tensors: Tensors) -> None:
        with written_whole(self._path(group)) as draft:
            save_file({name: values.contiguous() for name, values in tensors.items()}, draft)

    def _is_learnt(self, group: Group) -> bool:
        """Say whether the group's weights can be read; what cannot be is removed."""
        try:
            self._learnt(group)
        except (OSError, SafetensorError):
            remove(self._path(group))
            return False
        return True

    def _learnt(self, group: Group) -> Tensors:
        return load_file(self._path(group))

    def _path(self, group: Group) -> Path:
        words = [self.task.start, self.max_length, group.model_dump(mode="json")]
        words += [self.settings.model_dump()]
        return self.task.cache / "local" / f"{digest(words)}.safetensors"

    def _batches(self) -> list[Batch]:
        """Return batches of training examples, spread over the split, of about as many tokens as
        the settings ask for."""
        split, _ = self.task.splits(self.max_length, None)
        wanted = min(len(split.rows), max(1, self.settings.tokens // self.max_length))
        rows = [split.rows[i * len(split.rows) // wanted] for i in range(wanted)]
        size = max(1, BATCH_TOKENS // self.max_length)
        return [split.collate(rows[i : i + size]) for i in range(0, wanted, size)]


def start_locally_(
    shared: PreTrainedModel,
    task: PreparedTask,
    activations: Activations | None,
    settings: LocalStart,
    max_length: int,
) -> None:
    """Let the new weights of `shared` start, in place, from local distillation."""
    state = torch.random.get_rng_state()
    LocalStarts(task, activations, settings, max_length).start_(shared)
    torch.random.set_rng_state(state)
