"""Find, in any Transformer, the stacks of layers and the role of each matrix of a layer.

No model class is named here. A stack is a list of modules of one class and shape; a matrix is a
Linear (or GPT-2's transposed Conv1D); its role follows from its place and its shape. Only the words
that distinguish queries, keys, values and gates are a table.
"""

import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sharetune.spaces.errors import ModelError
from sharetune.spaces.stack_shape import ONLY_WHOLE, StackShape
from sharetune.trainers.models.activation_reuse import Borrower
from sharetune.trainers.models.kinds import kind_names
from sharetune.trainers.models.mixtures import Mixture, are_experts, find_mixtures
from sharetune.trainers.models.modules import SharedLinear, resolved
from sharetune.trainers.models.softening import SoftLinear

MATRICES = (nn.Linear, Conv1D, SharedLinear, SoftLinear, Borrower)
"""Module classes that count as one matrix of a layer."""

BANKS = "banks"
"""The name of the banks at the model's root, where no stacks are looked for."""

ATTENTION_WORD = re.compile(r"att", re.IGNORECASE)
"""A word of a path that marks an attention."""

QKV_WORDS = {
    "q": re.compile(r"^(wq|q|query)(_?(proj|lin|projection))?$", re.IGNORECASE),
    "k": re.compile(r"^(wk|k|key)(_?(proj|lin|projection))?$", re.IGNORECASE),
    "v": re.compile(r"^(wv|v|value)(_?(proj|lin|projection))?$", re.IGNORECASE),
}
"""The last word of the path of a q, k or v matrix, by role."""

POSITION_WORD = re.compile(r"^pos_")
"""Matrices of an attention that project positions, as in DeBERTa."""

GATE_WORD = re.compile(r"gate|wi_0", re.IGNORECASE)
"""A word in the path of the gate of a gated FFN; T5 names it ``wi_0``."""

FFN_WORD = re.compile(r"mlp|ffn|feed_?forward", re.IGNORECASE)
"""A word in the name of a layer's FFN."""

NORM_WORD = re.compile(r"norm|(^|\.)ln_", re.IGNORECASE)
"""A word in the path or class of a normalisation."""

HEADS_ATTRIBUTES = ("num_attention_heads", "num_heads", "n_heads")
"""Attributes, of a module or a configuration, for the number of heads."""

SIZE_ATTRIBUTES = (*HEADS_ATTRIBUTES, "num_key_value_heads", "all_head_size", "split_size")
"""Attributes of an attention that are multiples of its number of units (heads or KV groups)."""

HEAD_SIZE_ATTRIBUTES = ("head_dim", "head_size")
"""Attributes of an attention for the width of one head."""

INTERLEAVED_BY_HEAD = {"query_key_value"}
"""Fused matrices whose rows go q, k, v head by head, as GPT-NeoX's, not section by section."""


INDEXED = r"self\.{}\[{}\]"
"""A list of a module, in the module's source, that is read by an index."""

BLOCKS = re.compile(r"mp_num = (\d+)")
"""The number of blocks, in an attention's source, in which heads go q, v, k block by block."""


@dataclass(frozen=True)
class Slot:
    """One matrix of a layer (out x in), with its roles and its division into units.

    `path` is relative to the layer. Units (heads or KV groups, FFN neurons) are along `axis`: 0 for
    rows, 1 for columns. A fused matrix has several `roles`; each of its `sections` along that axis
    holds an equal number of rows of every unit.
    """

    path: str
    roles: tuple[str, ...]
    axis: int
    units: int
    sections: tuple[int, ...]

    def rows(self, roles: Iterable[str]) -> list[int]:
        """Return the indices along `axis` of all units of these of its `roles`."""
        sections, units = self.sections, 1
        if len(sections) < len(self.roles):
            units = self.units
            sections = (sections[0] // units // len(self.roles),) * len(self.roles)
        starts = list(accumulate((0, *sections)))
        return [
            unit * starts[-1] + row
            for unit in range(units)
            for number, role in enumerate(self.roles)
            if role in roles
            for row in range(starts[number], starts[number + 1])
        ]

    @property
    def role(self) -> str:
        """Return the first role, which says if the matrix is an attention's or the FFN's."""
        return self.roles[0]


@dataclass(frozen=True)
class Stack:
    """Named layers of equal structure: those at `places` of the list of `length` at `path`.

    A list of layers of several kinds holds a stack of each. `slots` are the first layer's
    matrices; the others have the same ones, of as many units or of others. `norms` are the paths at
    which at least one layer has a normalisation with weights, `experts` those of all experts of a
    mixture, and `mixtures` each layer's of a known kind. `beside` names lists that hold further
    parts of the same layers, as XLM's.
    """

    name: str
    path: str
    layers: nn.ModuleList
    norms: tuple[str, ...]
    experts: tuple[str, ...]
    layer_slots: tuple[tuple[Slot, ...], ...]
    mixtures: tuple[tuple[Mixture, ...], ...]
    places: tuple[int, ...]
    length: int
    beside: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Return whether the list holds no other layers."""
        return len(self.places) == self.length

    def layer_path(self, layer: int) -> str:
        """Return the path, in the model, of a layer by its number in the stack."""
        return f"{self.path}.{self.places[layer]}"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Return the matrices of the first layer."""
        return self.layer_slots[0]

    @property
    def shape(self) -> StackShape:
        """Return the depth and the numbers of units, as plans need them."""
        heads = (_units(slots, ("q", "k", "v")) for slots in self.layer_slots)
        neurons = (_units(slots, ("fc_out",)) for slots in self.layer_slots)
        experts = (own[0].experts if own else 0 for own in self.mixtures)
        return StackShape(len(self.layers), tuple(heads), tuple(neurons), experts=tuple(experts))

    def families(self, layer: int = 0) -> dict[str, list[Slot]]:
        """Return the matrices of `layer` by the path of their attention; empty for the FFN."""
        found: dict[str, list[Slot]] = defaultdict(list)
        for slot in self.layer_slots[layer]:
            found[attention_path(slot.path)].append(slot)
        return found


def find_stacks(model: PreTrainedModel) -> dict[str, Stack]:
    """Return the model's stacks by name: ``layers``, ``encoder`` and ``decoder``, ``stage0`` ...

    A list of layers of several kinds holds one for each kind of at least two layers, named by what
    tells them apart, such as ``layers[attention]`` and ``layers[mamba]``. Layers of one kind may
    differ in how many heads and neurons they have. Raises :class:`ModelError` for a model without
    a stack, or one that reads its layers more than once already.
    """
    settled: Mapping[str, tuple[str, tuple[int, ...]]]
    settled = getattr(getattr(model, "sharing", None), "places", {})
    if settled:
        return {name: _stack(model, name, *place) for name, place in settled.items()}
    _refuse_shared_by_design(model)
    whole = list(_whole_lists(model, model, ""))
    mixed = dict(_mixed_lists(model, model, ""))
    if not (whole or mixed):
        raise ModelError(
            f"{type(model).__name__} has no stack of at least two layers of one shape",
            "look at print(model): layers must be in an nn.ModuleList and of one class",
        )
    found = {
        name: _stack(model, name, path) for name, path in zip(_names(whole), whole, strict=True)
    }
    for name, path in zip(_names([*whole, *mixed])[len(whole) :], mixed, strict=True):
        for kind, places in mixed[path].items():
            found[f"{name}[{kind}]"] = _stack(model, f"{name}[{kind}]", path, places)
    return found


def stack_shapes(model: PreTrainedModel) -> dict[str, StackShape]:
    """Return the shapes of the model's stacks by name, as plans and spaces need them."""
    return {name: stack.shape for name, stack in find_stacks(model).items()}


def places_in_lists(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return, for each stack that shares a list with layers of other kinds, its places there."""
    stacks = find_stacks(model)
    return {name: stack.places for name, stack in stacks.items() if not stack.is_whole}


def weight_out_in(module: nn.Module) -> Tensor:
    """Return the module's matrix as out x in, also if it is stored transposed."""
    module = resolved(module)
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(module, Conv1D) else weight


def matrices(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return all matrices of a layer with their paths, in order of registration.

    A shared matrix counts as one, not as the tensors it is made of.
    """
    found: list[tuple[str, nn.Module]] = []
    for path, module in layer.named_modules():
        inside = found and path.startswith(f"{found[-1][0]}.")
        if isinstance(resolved(module), MATRICES) and not inside:
            found.append((path, module))
    return found


def attention_path(path: str) -> str:
    """Return the path of the attention that a matrix belongs to; empty for the FFN."""
    words = path.split(".")
    attention = [i for i, word in enumerate(words) if ATTENTION_WORD.search(word)]
    return ".".join(words[: attention[0] + 1]) if attention else ""


def is_norm(path: str, module: nn.Module) -> bool:
    """Return whether `module`, at `path`, is a normalisation with weights of its own."""
    own = list(module.parameters(recurse=False))
    return bool(own) and NORM_WORD.search(path + type(module).__name__) is not None


def _refuse_shared_by_design(model: PreTrainedModel) -> None:
    """Raise if the configuration counts more layers than the longest list holds, as ALBERT's."""
    depth = getattr(model.config, "num_hidden_layers", None)
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and matrices(m)]
    stored = max((len(layers) for layers in lists), default=0)
    if isinstance(depth, int) and 0 < stored < depth:
        raise ModelError(
            f"{type(model).__name__} shares its weights already, by design: "
            f"its {depth} layers read {stored} stored",
            "start from a model whose layers are its own, such as BERT",
        )


def _whole_lists(model: PreTrainedModel, module: nn.Module, path: str) -> Iterator[str]:
    """Yield the paths of lists below `module`, at `path`, whose layers are all of one kind."""
    if isinstance(module, nn.ModuleList) and _is_stack(module, model):
        yield path
        return
    for name, child in module.named_children():
        if name != BANKS or path:
            yield from _whole_lists(model, child, f"{path}.{name}" if path else name)


def _mixed_lists(
    model: PreTrainedModel, module: nn.Module, path: str
) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Yield the paths of lists of several kinds of layers, with the places of each by its name.

    Lists that are whole, or that hold whole ones, are left out.
    """
    if isinstance(module, nn.ModuleList):
        if any(True for _ in _whole_lists(model, module, path)):
            return
        if kinds := _kinds(module, model, path):
            yield path, kinds
            return
    for name, child in module.named_children():
        if name != BANKS or path:
            yield from _mixed_lists(model, child, f"{path}.{name}" if path else name)


def _kinds(layers: nn.ModuleList, model: PreTrainedModel, path: str) -> dict[str, tuple[int, ...]]:
    """Return the places of the layers of each kind, by name, of kinds that are a stack.

    None are where no layer has an attention or an FFN of a known kind.
    """
    places: dict[Any, list[int]] = defaultdict(list)
    for place, layer in enumerate(layers):
        places[type(layer), _frame(layer, model)].append(place)
    found = [len(own) > 1 and len(matrices(layers[own[0]])) > 1 for own in places.values()]
    if not any(next(_slots(layer, model), None) for layer in layers):
        return {}
    names = kind_names(layers, list(places.values()), configs_above(model, path)[-1])
    named = zip(names, places.values(), found, strict=True)
    return {name: tuple(own) for name, own, is_stack in named if is_stack}


def configs_above(model: PreTrainedModel, path: str) -> list[PreTrainedConfig]:
    """Return the configurations of the modules from the model to what holds the list at `path`."""
    words = path.split(".")
    holders = [model.get_submodule(".".join(words[:i])) for i in range(len(words))]
    configs = {id(holder.config): holder.config for holder in holders if hasattr(holder, "config")}
    return list(configs.values())


def _is_stack(layers: nn.ModuleList, model: PreTrainedModel) -> bool:
    if len(layers) < 2 or len(matrices(layers[0])) < 2:
        return False
    return _are_one(layers, _shapes) or _are_one(layers, lambda layer: _frame(layer, model))


def _are_one(layers: nn.ModuleList, trait: Callable[[nn.Module], Any]) -> bool:
    return len({(type(layer), trait(layer)) for layer in layers}) == 1


def _shapes(layer: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((path, _out_in(module)) for path, module in matrices(layer))


def _frame(layer: nn.Module, model: PreTrainedModel) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the shapes of a layer's matrices without the sides along which units lie, experts
    among them."""
    routers = [one for mixture in find_mixtures(layer) for one in mixture.router]
    axes = {name.removesuffix(".weight"): axis for name, axis in routers}
    axes |= {slot.path: slot.axis for slot in _slots(layer, model)}
    return tuple(
        (path, (shape[1 - axes[path]],) if path in axes else shape)
        for path, shape in _shapes(layer)
    )


def _stack(
    model: PreTrainedModel, name: str, path: str, places: Sequence[int] | None = None
) -> Stack:
    """Return the stack of the layers at `places` of the list at `path`; None: of all."""
    whole = model.get_submodule(path)
    assert isinstance(whole, nn.ModuleList)
    layers = whole if places is None else nn.ModuleList([whole[place] for place in places])
    layers.training = whole.training
    found = [(p, m) for layer in layers for p, m in layer.named_modules()]
    return Stack(
        name,
        path,
        layers,
        tuple(dict.fromkeys(p for p, m in found if is_norm(p, m))),
        tuple(dict.fromkeys(p for p, m in found if are_experts(p, m))),
        tuple(tuple(_slots(layer, model)) for layer in layers),
        tuple(tuple(find_mixtures(layer)) for layer in layers),
        tuple(range(len(whole)) if places is None else places),
        len(whole),
        _beside(model, path) + (() if places is None else _numbers_kept(model, path)),
    )


def _beside(model: PreTrainedModel, path: str) -> tuple[str, ...]:
    """Return the names of the lists that are read with the same index as the list at `path`."""
    holder, _, name = path.rpartition(".")
    parent = model.get_submodule(holder)
    text = source(type(parent))  # type: ignore[arg-type]
    indices = "|".join(dict.fromkeys(re.findall(INDEXED.format(re.escape(name), r"(\w+)"), text)))
    others = [n for n, m in parent.named_children() if isinstance(m, nn.ModuleList) and n != name]
    own = [n for n in others if indices and re.search(INDEXED.format(n, f"({indices})"), text)]
    return tuple(own)


def _numbers_kept(model: PreTrainedModel, path: str) -> tuple[str, ...]:
    """Return the lists of layers' numbers that what holds the list at `path` keeps, as Mllama's."""
    parent = model.get_submodule(path.rpartition(".")[0])
    return tuple(
        name
        for name, values in vars(parent).items()
        if "layer" in name and isinstance(values, list | tuple) and values
        if all(isinstance(value, int) for value in values)
    )


def _units(slots: Sequence[Slot], roles: tuple[str, ...]) -> int:
    return next((slot.units for slot in slots if slot.role in roles), 0)


def _names(paths: list[str]) -> list[str]:
    """Return the first word of each path that differs between all; a number names a stage."""
    if len(paths) == 1:
        return [ONLY_WHOLE]
    for words in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(words)) == len(words):
            return [f"stage{word}" if word.isdigit() else word for word in words]
    return [f"stage{i}" for i in range(len(paths))]


def _slots(layer: nn.Module, model: PreTrainedModel) -> Iterator[Slot]:
    found = matrices(layer)
    attentions = dict.fromkeys(attention_path(path) for path, _ in found if attention_path(path))
    for name in attentions:
        shapes = {p: _out_in(m) for p, m in found if attention_path(p) == name}
        heads = partial(_heads, layer, tuple(shapes), model)
        yield from _attention_slots(shapes, heads, _blocks(layer, tuple(shapes)))
    yield from _own_ffn([(p, *_out_in(m)) for p, m in found if not attention_path(p)])


def _out_in(matrix: nn.Module) -> tuple[int, int]:
    if isinstance(matrix, Borrower):
        return matrix.shape
    weight = weight_out_in(matrix.reader if isinstance(matrix, SoftLinear) else matrix)
    return weight.shape[0], weight.shape[1]


def _attention_slots(
    shapes: dict[str, tuple[int, int]], heads_of: Callable[[int], int], blocks: int
) -> Iterator[Slot]:
    """Yield the slots of one attention from out x in by path; none if its kind is unknown.

    `heads_of` gives the number of heads for a number of rows of queries. With `blocks` above 0 a
    fused matrix goes block by block, and a block is a unit.
    """
    named = {role: path for path in shapes for role in QKV_WORDS if _is_word(role, path)}
    rest = [p for p in shapes if p not in named.values() and not _is_position(p)]
    if set(named) == set(QKV_WORDS) and rest:
        rows = {role: shapes[path][0] for role, path in named.items()}
        gated = rows["q"] == 2 * shapes[rest[-1]][1]  # each head's query, and a gate of its output
        query = rows["q"] // 2 if gated else rows["q"]
        units = heads_of(query) * rows["k"] // query
        ins = [Slot(path, (role,), 0, units, (rows[role],)) for role, path in named.items()]
    elif not named and len(rest) == 2:
        one, two = rest
        if shapes[one][0] <= shapes[two][1]:  # what is fused makes more than the output reads
            rest = [two, one]
        query = shapes[rest[1]][1]
        if shapes[rest[0]][0] <= query or shapes[rest[1]][0] != shapes[rest[0]][1]:
            return  # such as a router and what makes keys and values for experts
        ins = [_fused_slot(rest[0], shapes[rest[0]][0], query, heads_of(query))]
        if blocks:
            ins = [Slot(rest[0], ("q", "v", "k"), 0, blocks, (shapes[rest[0]][0],))]
    else:
        return
    if ins[0].units > 0:
        yield from ins
        yield Slot(rest[-1], ("o",), 1, ins[0].units, (shapes[rest[-1]][1],))


def _blocks(layer: nn.Module, paths: Iterable[str]) -> int:
    """Return the number of blocks of an attention's fused matrix; 0: it has none."""
    parents = {type(layer.get_submodule(path.rpartition(".")[0])) for path in paths}
    found = [BLOCKS.search(source(kind)) for kind in parents]  # type: ignore[arg-type]
    return next((int(match[1]) for match in found if match), 0)


@cache
def source(kind: type[nn.Module]) -> str:
    """Return the source text of a class of modules; empty if there is none."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def _fused_slot(path: str, rows: int, query: int, heads: int) -> Slot:
    """Return the slot of q, k and v in one matrix of `rows` rows, `query` of which are q's."""
    key = (rows - query) // 2
    by_head = path.split(".")[-1] in INTERLEAVED_BY_HEAD
    sections = (rows,) if by_head else (query, key, key)
    return Slot(path, tuple(QKV_WORDS), 0, heads * key // query, sections)


def _is_word(role: str, path: str) -> bool:
    return QKV_WORDS[role].match(path.split(".")[-1]) is not None


def _is_position(path: str) -> bool:
    return POSITION_WORD.match(path.split(".")[-1]) is not None


def _heads(layer: nn.Module, paths: Iterable[str], model: PreTrainedModel, rows: int) -> int:
    """Return the number of heads of an attention whose queries are `rows` rows."""
    parents = [
        layer.get_submodule(parent) for parent in sorted({p.rpartition(".")[0] for p in paths})
    ]
    configs = [parent.config for parent in parents if hasattr(parent, "config")]
    own, size = _number(parents, HEADS_ATTRIBUTES), _number(parents, HEAD_SIZE_ATTRIBUTES)
    if own is None and size:
        return rows // size
    return own or _number([*configs, model.config], HEADS_ATTRIBUTES) or 1


def _number(holders: Iterable[Any], attributes: Iterable[str]) -> int | None:
    """Return the first whole number that one of `holders` has under one of these names."""
    found = [getattr(holder, name, None) for holder in holders for name in attributes]
    return next((number for number in found if isinstance(number, int)), None)


def _own_ffn(found: list[tuple[str, int, int]]) -> Iterator[Slot]:
    """Yield the slots of the FFN from path, out and in of all matrices outside attentions.

    Next to other matrices, such as those of Mamba, it is the only child that is called one.
    """
    children: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for matrix in found:
        children[matrix[0].partition(".")[0]].append(matrix)
    named = [own for name, own in children.items() if FFN_WORD.search(name)]
    yield from _ffn_slots(named[0] if len(named) == 1 and len(found) > 3 else found)


def _ffn_slots(found: list[tuple[str, int, int]]) -> Iterator[Slot]:
    """Yield the slots of the FFN from path, out and in of all matrices outside attentions."""
    if not 2 <= len(found) <= 3:
        return
    *ins, (out_path, _, neurons) = found
    fused = len(ins) == 1 and ins[0][1] == 2 * neurons
    if not fused and any(rows != neurons for _, rows, _ in ins):
        return
    for path, rows, _ in ins:
        one = ("gate",) if GATE_WORD.search(path) else ("fc_in",)
        roles = ("fc_in", "gate") if fused else one
        yield Slot(path, roles, 0, neurons, (neurons,) * (rows // neurons))
    yield Slot(out_path, ("fc_out",), 1, neurons, (neurons,))
