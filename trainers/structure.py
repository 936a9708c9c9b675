"""Finds, in any Transformer, the stacks of layers and what each matrix of a layer is for.

Nothing here knows a model's class. A stack is a list of modules of one class and shape; a
matrix is a Linear (or GPT-2's transposed Conv1D); its role follows from where it stands and
from its shape. Only the words that tell queries, keys, values and gates apart are a table.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from spaces.errors import ModelError
from spaces.plan import StackShape

ATTENTION_WORD = re.compile(r"att", re.IGNORECASE)
QKV_WORDS = {
    "q": re.compile(r"^(wq|q|query)(_?(proj|lin|projection))?$", re.IGNORECASE),
    "k": re.compile(r"^(wk|k|key)(_?(proj|lin|projection))?$", re.IGNORECASE),
    "v": re.compile(r"^(wv|v|value)(_?(proj|lin|projection))?$", re.IGNORECASE),
}
GATE_WORD = re.compile(r"gate|wi_0", re.IGNORECASE)
NORM_WORD = re.compile(r"norm|(^|\.)ln_", re.IGNORECASE)
HEADS_ATTRIBUTES = ("num_attention_heads", "num_heads", "n_heads")
INTERLEAVED_BY_HEAD = {"query_key_value"}


@dataclass(frozen=True)
class Slot:
    """One matrix of a layer, out x in, and how it divides into units.

    `path` is relative to the layer. Units (heads, or FFN neurons) lie along `axis`: 0 for
    rows, 1 for columns. A fused matrix has several `sections` along that axis, each holding
    an equal number of rows of every unit.
    """

    path: str
    role: str
    axis: int
    units: int
    sections: tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """A named list of layers of equal structure. `path` leads to it from the model."""

    name: str
    path: str
    layers: nn.ModuleList
    slots: tuple[Slot, ...]
    norms: tuple[str, ...]

    @property
    def shape(self) -> StackShape:
        """Depth and unit counts, as plans need them."""
        heads = next((s.units for s in self.slots if s.role in ("q", "k", "v")), 0)
        neurons = next((s.units for s in self.slots if s.role == "fc_out"), 0)
        return StackShape(len(self.layers), heads, neurons)


def find_stacks(model: PreTrainedModel) -> dict[str, Stack]:
    """The model's stacks by name: ``layers``, or ``encoder`` and ``decoder``, or stages.

    Raises :class:`ModelError` for a model without a stack of at least two layers.
    """
    paths = list(_stack_paths(model, ""))
    if not paths:
        raise ModelError(
            f"{type(model).__name__} has no stack of at least two layers of one shape",
            "ALBERT is shared already; for other models look at print(model)",
        )
    stacks = {}
    for name, path in zip(_names(paths), paths, strict=True):
        layers = model.get_submodule(path)
        assert isinstance(layers, nn.ModuleList)
        slots = tuple(_slots(layers[0], model))
        norms = tuple(p for p, m in layers[0].named_modules() if _is_norm(p, m))
        stacks[name] = Stack(name, path, layers, slots, norms)
    return stacks


def stack_shapes(model: PreTrainedModel) -> dict[str, StackShape]:
    """What plans and spaces must know of the model."""
    return {name: stack.shape for name, stack in find_stacks(model).items()}


def weight_out_in(module: nn.Module) -> Tensor:
    """The module's matrix as out x in, whichever way it is stored."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(module, Conv1D) else weight


def matrices(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """All matrices of a layer with their paths, in order of registration."""
    return [(p, m) for p, m in layer.named_modules() if isinstance(m, nn.Linear | Conv1D)]


def family(path: str) -> str:
    """The attention that a matrix of a layer belongs to; empty for the FFN."""
    words = path.split(".")
    attention = [i for i, word in enumerate(words) if ATTENTION_WORD.search(word)]
    return ".".join(words[: attention[0] + 1]) if attention else ""


def _stack_paths(module: nn.Module, path: str) -> Iterator[str]:
    if isinstance(module, nn.ModuleList) and _is_stack(module):
        yield path
        return
    for name, child in module.named_children():
        yield from _stack_paths(child, f"{path}.{name}" if path else name)


def _is_stack(layers: nn.ModuleList) -> bool:
    shapes = {
        (type(layer), tuple((p, tuple(weight_out_in(m).shape)) for p, m in matrices(layer)))
        for layer in layers
    }
    return len(layers) > 1 and len(shapes) == 1 and len(matrices(layers[0])) > 1


def _names(paths: list[str]) -> list[str]:
    if len(paths) == 1:
        return ["layers"]
    words = [[w for w in ("encoder", "decoder") if w in path.split(".")] for path in paths]
    lasts = [found[-1] if found else "" for found in words]
    if len(set(lasts)) == len(lasts) and all(lasts):
        return lasts
    return [f"stage{i}" for i in range(len(paths))]


def _is_norm(path: str, module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and NORM_WORD.search(path + type(module).__name__) is not None


def _slots(layer: nn.Module, model: PreTrainedModel) -> Iterator[Slot]:
    found = matrices(layer)
    attentions = dict.fromkeys(family(path) for path, _ in found if family(path))
    for name in attentions:
        yield from _attention_slots(layer, [(p, m) for p, m in found if family(p) == name], model)
    yield from _ffn_slots([(p, m) for p, m in found if not family(p)])


def _attention_slots(
    layer: nn.Module, found: list[tuple[str, nn.Module]], model: PreTrainedModel
) -> Iterator[Slot]:
    shapes = {path: tuple(weight_out_in(module).shape) for path, module in found}
    roles = {path: _attention_role(path, shapes[path]) for path in shapes}
    heads = _heads(layer, list(shapes), model)
    widths = {role: shapes[path][0] for path, role in roles.items() if role}
    units = heads * widths["k"] // widths["q"] if {"q", "k"} <= set(widths) else heads
    for path, role in roles.items():
        out, width = shapes[path]
        if role == "o":
            yield Slot(path, role, 1, units, (width,))
        elif role == "qkv" and path.split(".")[-1] not in INTERLEAVED_BY_HEAD:
            yield Slot(path, "q", 0, units, (out // 3,) * 3)
        elif role:
            yield Slot(path, role if role != "qkv" else "q", 0, units, (out,))


def _attention_role(path: str, shape: tuple[int, int]) -> str | None:
    word = path.split(".")[-1]
    for role, pattern in QKV_WORDS.items():
        if pattern.match(word):
            return role
    if word.startswith("pos_"):
        return None
    return "qkv" if shape[0] == 3 * shape[1] else "o"


def _heads(layer: nn.Module, paths: list[str], model: PreTrainedModel) -> int:
    parents = {".".join(path.split(".")[:-1]) for path in paths}
    for parent in sorted(parents):
        module = layer.get_submodule(parent)
        for attribute in HEADS_ATTRIBUTES:
            if isinstance(getattr(module, attribute, None), int):
                return int(getattr(module, attribute))
    return int(getattr(model.config, "num_attention_heads", 1))


def _ffn_slots(found: list[tuple[str, nn.Module]]) -> Iterator[Slot]:
    if not 2 <= len(found) <= 3:
        return
    *ins, (out_path, out) = found
    neurons = weight_out_in(out).shape[1]
    for path, module in ins:
        rows = weight_out_in(module).shape[0]
        if rows % neurons:
            return
        role = "gate" if GATE_WORD.search(path) else "fc_in"
        yield Slot(path, role, 0, neurons, (neurons,) * (rows // neurons))
    yield Slot(out_path, "fc_out", 1, neurons, (neurons,))
