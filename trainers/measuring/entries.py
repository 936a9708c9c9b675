"""List the tensors of a model by name: shapes, dtypes, and whether they are parameters or saved."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sharetune.trainers.measuring import sizes
from sharetune.trainers.models.parameters import head_parameters
from sharetune.trainers.models.structure import weight_out_in

Shape = tuple[int, ...]


class Entry(NamedTuple):
    """A tensor of a model. `rows` counts those of a matrix that can be stored in 8 bits, else 0."""

    shape: Shape
    dtype: torch.dtype
    is_parameter: bool
    is_saved: bool
    rows: int = 0

    @property
    def numel(self) -> int:
        """Return the number of elements."""
        return torch.Size(self.shape).numel()


Entries = dict[str, Entry]
"""Tensors by name."""


def entries_of(model: PreTrainedModel) -> Entries:
    """Return the tensors of a whole model."""
    parameters = {name for name, _ in model.named_parameters()}
    saved = dict(sizes.saved_tensors(model))
    rows = _rows_in_eight_bits(model)
    return {
        name: Entry(
            tuple(tensor.shape), tensor.dtype, name in parameters, name in saved, rows.get(name, 0)
        )
        for name, tensor in model.state_dict(keep_vars=True).items()
    }


def pop_prefix(entries: Entries, start: str) -> Entries:
    """Remove the entries that begin with `start`; return them by the rest of their names."""
    names = [name for name in entries if name.startswith(start)]
    return {name.removeprefix(start): entries.pop(name) for name in names}


def own_entries(module: nn.Module) -> Entries:
    """Return the tensors of a part of a shared model, all of which are saved."""
    rows = {
        f"{path}.weight".lstrip("."): len(weight_out_in(child))
        for path, child in module.named_modules()
        if type(child) in (nn.Linear, Conv1D)
    }
    parameters = {name for name, _ in module.named_parameters()}
    return {
        name: Entry(tuple(t.shape), t.dtype, name in parameters, True, rows.get(name, 0))
        for name, t in module.state_dict(keep_vars=True).items()
    }


def _rows_in_eight_bits(model: PreTrainedModel) -> dict[str, int]:
    """Return the rows of each matrix that `quantise_` stores in 8 bits."""
    head = head_parameters(model)
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    matrices = {
        f"{path}.weight": module
        for path, module in model.named_modules()
        if type(module) in (nn.Linear, Conv1D, nn.Embedding)
    }
    return {
        name: len(weight_out_in(module))
        for name, module in matrices.items()
        if name not in head and uses[id(module.weight)] == 1
    }


def in_eight_bits(entries: Entries) -> Entries:
    """Return the tensors with matrices as numbers of 8 bits and a scale for each row."""
    found: Entries = {}
    for name, entry in entries.items():
        if not entry.rows:
            found[name] = entry
            continue
        path = name.removesuffix("weight")
        shape = (entry.rows, entry.numel // entry.rows)
        found[f"{path}numbers"] = entry._replace(shape=shape, dtype=torch.int8)
        found[f"{path}scale"] = entry._replace(shape=(entry.rows, 1))
    return found


def parameters_by_kind(entries: Iterable[Entry]) -> tuple[int, int]:
    """Return the numbers of parameters in matrices and in vectors."""
    counts = [0, 0]
    for entry in entries:
        if entry.is_parameter:
            counts[len(entry.shape) < 2] += entry.numel
    return counts[0], counts[1]


def replace_entries(layer: Entries, path: str, own: Entries) -> None:
    """Put a module's `own` tensors, in place, where the `layer`'s at `path` were."""
    for name in [name for name in layer if name.startswith(f"{path}.")]:
        del layer[name]
    layer |= {f"{path}.{name}": entry for name, entry in own.items()}
