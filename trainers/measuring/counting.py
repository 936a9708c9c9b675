"""Count a plan's parameters, bytes and FLOPs from a catalogue of the unshared model.

Building a shared model and running it without values takes a third of a second. Here the unshared
model is run once. A plan is then a list of tensors removed and added, which the forms' own builders
make for one matrix at a time, and of products that became cheaper. The numbers equal those of
:func:`sharetune.trainers.measuring.sizes.facts`, as tests check.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.pytorch_utils import Conv1D

from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import PlanError
from sharetune.spaces.forms import Drop, Form, Narrow, Reuse
from sharetune.spaces.group import Group
from sharetune.spaces.inits import start_of
from sharetune.spaces.parts import EXPERTS, NARROWED
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.compression.steps import reshape_
from sharetune.trainers.measuring import sizes
from sharetune.trainers.measuring.cache import Kept, cache_watched
from sharetune.trainers.measuring.exact import Sized, further_facts
from sharetune.trainers.models.activation_reuse import Borrower
from sharetune.trainers.models.arrangement import arrangements
from sharetune.trainers.models.feasibility import check_feasible
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.layer_inputs import input_width
from sharetune.trainers.models.mixtures import are_experts
from sharetune.trainers.models.modules import SharedLinear
from sharetune.trainers.models.narrowing import narrow_
from sharetune.trainers.models.parameters import head_parameters
from sharetune.trainers.models.shared_cache import keys_alike
from sharetune.trainers.models.sharing import banks_of, entry_key, share_
from sharetune.trainers.models.structure import (
    Slot,
    Stack,
    find_stacks,
    is_norm,
    weight_out_in,
)

UNCOMPRESSED = Compression()
"""No compression."""

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


@dataclass(frozen=True)
class BuiltMatrix:
    """One matrix as a form builds it: the bank's tensors, each reader's, and the readers."""

    bank: Entries
    own: tuple[Entries, ...]
    readers: tuple[nn.Module, ...]


@dataclass
class MatrixUse:
    """How a matrix is used in one forward pass: shapes of its inputs, and reads of its weight.

    A read that is not for a product only looks at the weight, as T5 does for its dtype.
    """

    input_shapes: list[Shape] = field(default_factory=list)
    reads: int = 0

    @property
    def looked_up(self) -> int:
        """Return the number of reads that are not for a product."""
        return self.reads - len(self.input_shapes)

    def key(self) -> tuple[Any, ...]:
        """Return the same as a hashable key."""
        return tuple(self.input_shapes), self.looked_up


@dataclass(frozen=True)
class View:
    """One forward pass of a model without banks.

    `flops` are those of the whole, `layer_flops` those of each layer, by stack, `layer_kept` what
    each keeps in the cache, and `kept_elsewhere` the bytes of layers of no stack; `layers` are each
    layer's tensors, and `uses` tells how each matrix of a layer is used.
    """

    stacks: dict[str, Stack]
    flops: int
    layer_flops: dict[str, list[int]]
    layer_kept: dict[str, list[Kept]]
    kept_elsewhere: int
    layers: dict[str, list[Entries]]
    uses: dict[tuple[str, int, str], MatrixUse]


@dataclass(frozen=True)
class Seen:
    """One layer as a plan narrows it: its tensors, its FLOPs, what it keeps in the cache, and by
    path each matrix that can be shared, as a module, a slot and a use."""

    entries: Entries
    flops: int
    kept: Kept
    matrices: dict[str, tuple[nn.Module, Slot, MatrixUse]]


@dataclass(frozen=True)
class Shallow:
    """A `model` with fewer layers, and the place in it of a layer like each, by stack and index."""

    model: PreTrainedModel
    places: Mapping[tuple[str, int], int]

    def seen_in(self, view: View, name: str, index: int) -> Seen:
        """Return what a layer of the whole model is in a view of this one."""
        return _seen_in(view, name, self.places[name, index])


class Counting:
    """Count plans for one `unshared` model on the meta device and one sample of `inputs`."""

    def __init__(self, unshared: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
        self.unshared, self.inputs = unshared, inputs
        self._rest = _entries(unshared)
        self._view = _look(copy.deepcopy(unshared), inputs)  # some models keep states of a pass
        self.stacks = self._view.stacks
        self._whole, self._single = sizes.shareable(self.stacks.values())
        lists = {stack.path for stack in self.stacks.values()}
        within = {path: _pop_prefix(self._rest, f"{path}.") for path in lists}
        self._lone = _without(within, self.stacks.values())
        self._before = self._layer_totals()
        self._whole_layers = {
            (name, index): _seen_in(self._view, name, index)
            for name, stack in self.stacks.items()
            for index in range(len(stack.layers))
        }
        self._narrowed: dict[Any, View] = {}
        self._built: dict[Any, BuiltMatrix] = {}
        self._extra_flops: dict[Any, int] = {}
        self._known: dict[Any, dict[str, float]] = {}

    def facts(self, plan: SharingPlan, compression: Compression = UNCOMPRESSED) -> dict[str, float]:
        """Return the sizes of the model shared by `plan` as :func:`sizes.facts` does.

        Raises :class:`PlanError` if the plan does not fit the model.
        """
        bound = plan.bound({name: stack.shape for name, stack in self.stacks.items()})
        key = tuple(map(_size_key, bound.groups)), compression
        if key not in self._known:
            builds = compression.needs_building or self._changes_inputs(bound)
            count = self.built if builds else self._with_further
            self._known[key] = count(bound, compression)
        return dict(self._known[key])

    def _changes_inputs(self, plan: SharingPlan) -> bool:
        """Return whether the plan also changes tensors that make something for each layer."""
        depths = {name: len(stack.layers) for name, stack in self.stacks.items()}
        runs = (len(plan.order(name, depth)) == depth for name, depth in depths.items())
        return bool(input_width(self.unshared.config)) and not all(runs)

    def built(self, plan: SharingPlan, compression: Compression = UNCOMPRESSED) -> dict[str, float]:
        """Return the same by building the model and running it without values.

        Building also raises for what the model cannot do. Pruned models and products in 8 bits are
        counted in this way only.
        """
        shared = share_(copy.deepcopy(self.unshared), plan)
        compressed = reshape_(copy.deepcopy(shared), compression)
        return sizes.facts(self.unshared, shared, self.inputs, compressed)

    def _with_further(self, plan: SharingPlan, compression: Compression) -> dict[str, float]:
        def build() -> PreTrainedModel:
            return reshape_(share_(copy.deepcopy(self.unshared), plan), compression)

        sized = Sized(self.unshared, plan, compression, self.inputs, build)
        return self._counted(plan, compression) | further_facts(sized)

    def _counted(self, plan: SharingPlan, compression: Compression) -> dict[str, float]:
        check_feasible(self.stacks, plan, self.unshared.config)
        orders = {name: plan.order(name, len(s.layers)) for name, s in self.stacks.items()}
        seen = self._seen(plan)
        layers, flops = self._tensors_at_positions(orders, seen)
        cached = self._view.kept_elsewhere
        cached += sum(seen[name, i].kept.all for name, order in orders.items() for i in order)
        banks: Entries = {}
        number = 0
        for group in plan.groups:
            stack = self.stacks[group.stack or ""]
            order = orders[stack.name]
            for own, init in zip(banks_of(group), _inits(group), strict=True):
                readers = [place for place, layer in enumerate(order) if layer in own]
                at = [order[place] for place in readers]
                bank = Bank(stack, group, readers, at, [seen[stack.name, index] for index in at])
                copied = not isinstance(init, str) and init not in own
                for name, entry in self._share(bank, layers[stack.name], copied=copied):
                    banks[f"banks.{number}.{name}"] = entry
                flops += self._added_flops(bank, copied=copied)
                cached -= bank.cached_twice()
                number += 1
        in_stacks = self._named(orders, layers) | banks
        return self._totals(in_stacks, flops, compression) | {"cache_bytes": cached}

    def _named(
        self, orders: dict[str, tuple[int, ...]], layers: dict[str, list[Entries]]
    ) -> Entries:
        """Return the tensors of all layers by their names in the model, lone layers included."""
        found: Entries = {}
        for one in arrangements(self.stacks, orders):
            at = {
                p: e
                for s in one.stacks
                for p, e in zip(one.places(s.name), layers[s.name], strict=True)
            }
            for place, before in enumerate(one.order):
                own = at[place] if place in at else self._lone[one.path, before]
                found |= {f"{one.path}.{place}.{path}": entry for path, entry in own.items()}
        return found

    def _totals(self, in_stacks: Entries, flops: int, compression: Compression) -> dict[str, float]:
        matrices, vectors = _parameters_by_kind(in_stacks.values())
        lost = self._before[0] + self._before[1] - matrices - vectors
        other = self._before[1] - vectors
        rest = self._rest
        if compression.eight_bits:
            in_stacks, rest = _in_eight_bits(in_stacks), _in_eight_bits(rest)
        stored = sum(_parameters_by_kind(in_stacks.values()))
        saved = {n: e for n, e in (rest | in_stacks).items() if e.is_saved}
        return {
            "parameters": stored + sum(_parameters_by_kind(rest.values())),
            "stack_parameters": stored,
            "bytes": sizes.file_bytes((n, e.shape, e.dtype) for n, e in saved.items()),
            "flops": flops,
            "effective_ratio": round((lost - other) / (self._whole - self._single), 6),
        }

    def _layer_totals(self) -> tuple[int, int]:
        """Return the numbers of elements in matrices and in vectors of all unshared layers."""
        layers = [own for layers in self._view.layers.values() for own in layers]
        every = [e for own in (*layers, *self._lone.values()) for e in own.values()]
        return _parameters_by_kind(every)

    def _seen(self, plan: SharingPlan) -> dict[tuple[str, int], Seen]:
        """Return every layer as the plan narrows it, before anything is shared."""
        seen = dict(self._whole_layers)
        for group in plan.groups:
            for view in self._views(group) if isinstance(group.form, Narrow) else ():
                for index in map(int, group.layers):
                    place = group.stack or "", index
                    whole, own = self._whole_layers[place], self._shallow.seen_in(view, *place)
                    seen[place] = _with_change(seen[place], whole, own)
        return seen

    def _views(self, group: Group) -> Iterator[View]:
        """Yield, for each part of a group, the model with it narrowed in all layers of the stack.

        What a layer takes depends on its own width alone, and part by part, so that one layer of
        each kind is enough.
        """
        for part, roles in NARROWED.items():
            if set(roles) <= set(group.parts):
                key = group.stack, part, group.form
                if key not in self._narrowed:
                    model = copy.deepcopy(self._shallow.model)
                    stacks = find_stacks(model)
                    every = range(len(stacks[group.stack or ""].layers))
                    rule = {"layers": tuple(every), "parts": roles}
                    narrow_(model, stacks, [group.model_copy(update=rule)], {})
                    self._narrowed[key] = _look(model, self.inputs)
                yield self._narrowed[key]

    @cached_property
    def _shallow(self) -> "Shallow":
        """The unshared model with one layer of each kind, and whole if it cannot lose the others.

        Layers are of one kind if they have the same tensors, FLOPs and uses of their matrices.
        """
        places: dict[tuple[str, int], int] = {}
        dropped = []
        for name, stack in self.stacks.items():
            depth = len(stack.layers)
            kinds = [_kind(self._whole_layers[name, index]) for index in range(depth)]
            kept = sorted({kinds.index(kind) for kind in kinds} | {0, 1})
            places |= {(name, i): kept.index(kinds.index(kind)) for i, kind in enumerate(kinds)}
            if others := [index for index in range(depth) if index not in kept]:
                dropped.append(Group(stack=name, layers=tuple(others), form=Drop()))
        try:
            model = share_(copy.deepcopy(self.unshared), SharingPlan(groups=tuple(dropped)))
        except PlanError:
            return Shallow(self.unshared, {place: place[1] for place in self._whole_layers})
        return Shallow(model, places)

    def _tensors_at_positions(
        self, orders: dict[str, tuple[int, ...]], seen: dict[tuple[str, int], Seen]
    ) -> tuple[dict[str, list[Entries]], int]:
        """Return the tensors at each position before sharing, and the FLOPs of the whole model.

        A repeated layer has no tensors at its later positions.
        """
        flops, layers = self._view.flops, {}
        for name, order in orders.items():
            layers[name] = [
                {} if index in order[:place] else dict(seen[name, index].entries)
                for place, index in enumerate(order)
            ]
            flops += sum(seen[name, index].flops for index in order)
            flops -= sum(self._view.layer_flops[name])
        return layers, flops

    def _share(
        self, bank: "Bank", layers: list[Entries], *, copied: bool
    ) -> Iterator[tuple[str, Entry]]:
        """Replace the tensors in `layers` that read the bank; yield the bank's tensors."""
        for slot in bank.slots:
            built = self._build(bank, slot, copied=copied)
            for place, own in zip(bank.readers, built.own, strict=False):
                _replace(layers[place], slot.path, own)
            yield from ((f"{entry_key(slot.path)}.{n}", e) for n, e in built.bank.items())
        if "norms" in bank.group.parts:
            yield from self._share_whole(bank, layers, bank.stack.norms, copied=copied)
        if EXPERTS in bank.group.parts:
            yield from self._share_whole(bank, layers, bank.stack.experts, copied=copied)

    def _share_whole(
        self, bank: "Bank", layers: list[Entries], paths: Sequence[str], *, copied: bool
    ) -> Iterator[tuple[str, Entry]]:
        for path in paths:
            having = [
                place
                for place, index in zip(bank.readers, bank.layers, strict=True)
                if _has_whole(bank.stack.layers[index], path)
            ]
            if len(having) + copied < 2 or not having:
                continue
            source = bank.seen[bank.readers.index(having[0])].entries
            own = {n: e for n, e in source.items() if n.startswith(f"{path}.")}
            for place in having:
                _replace(layers[place], path, {})
            yield from (
                (f"{entry_key(path)}.{n.removeprefix(f'{path}.')}", e) for n, e in own.items()
            )

    def _build(self, bank: "Bank", slot: Slot, *, copied: bool) -> BuiltMatrix:
        """Return the matrix as its form's builder makes it for this number of readers."""
        count, biases = len(bank.readers) + copied, "biases" in bank.group.parts
        key = bank.stack.name, slot, bank.form, count, biases
        if key not in self._built:
            module = bank.seen[0].matrices[slot.path][0]
            self._built[key] = _build(module, slot, bank.form, count, biases)
        return self._built[key]

    def _added_flops(self, bank: "Bank", *, copied: bool) -> int:
        """Return the FLOPs of the bank's readers beyond those of the matrices they replace.

        Negative if the readers take fewer.
        """
        total = 0
        for slot in bank.slots:
            built = self._build(bank, slot, copied=copied)
            for reader, own, seen in zip(built.readers, built.own, bank.seen, strict=False):
                if _changes_flops(reader):
                    replaced, _, use = seen.matrices[slot.path]
                    key = slot, bank.form, use.key(), tuple(own.items())
                    if key not in self._extra_flops:
                        self._extra_flops[key] = _flops(reader, use) - _flops(replaced, use)
                    total += self._extra_flops[key]
        return total


@dataclass(frozen=True)
class Bank:
    """The positions `readers` of a stack that read one bank, and the `layers` that run there.

    `seen` are these layers as the plan narrows them.
    """

    stack: Stack
    group: Group
    readers: Sequence[int]
    layers: Sequence[int]
    seen: Sequence[Seen]

    @property
    def form(self) -> Form:
        """Return the form of these readers."""
        return self.group.form_of(self.layers)

    @property
    def slots(self) -> list[Slot]:
        """Return the matrices that read the bank."""
        slots = [slot for _, slot, _ in self.seen[0].matrices.values()]
        return [slot for slot in slots if set(slot.roles) & set(self.group.parts)]

    def cached_twice(self) -> int:
        """Return the bytes of keys and values that readers find in the first one's cache."""
        if not (isinstance(self.form, Reuse) and self.form.what == "kv"):
            return 0
        kv = (slot.path for slot in self.slots if set(slot.roles) & {"k", "v"})
        attentions = dict.fromkeys(path.rpartition(".")[0] for path in kv)
        twice = 0
        for path, number in zip(attentions, ("shared", "crossed"), strict=False):
            owner, *readers = [self.stack.layers[i].get_submodule(path) for i in self.layers]
            for reader, seen in zip(readers, self.seen[1:], strict=True):
                twice += getattr(seen.kept, number) if keys_alike(owner, reader) else 0
        return twice


def _look(model: PreTrainedModel, inputs: dict[str, Tensor]) -> View:
    """Run a model without banks once, without values."""
    stacks, entries = find_stacks(model), _entries(model)
    flops = {name: [0] * len(stack.layers) for name, stack in stacks.items()}
    uses: dict[tuple[str, int, str], MatrixUse] = {}
    caching: set[str] = set()
    counter = sizes.flop_counter()
    with ExitStack() as watching:
        for name, stack in stacks.items():
            noted = partial(_note_cache, caching, stack.path)
            first = stack.layers[0].register_forward_pre_hook(noted, with_kwargs=True)
            watching.callback(first.remove)
            for index, layer in enumerate(stack.layers):
                for hook in _flop_hooks(counter, layer, flops[name], index):
                    watching.callback(hook.remove)
                for slot in stack.layer_slots[index]:
                    use = uses.setdefault((name, index, slot.path), MatrixUse())
                    watching.enter_context(_recording(layer.get_submodule(slot.path), use))
        kept = watching.enter_context(cache_watched(model))
        whole = sizes.run_without_values(model, inputs, counter, partial(_forget, flops, uses))
    layers = {
        name: [_pop_prefix(entries, f"{stack.layer_path(i)}.") for i in range(len(stack.layers))]
        for name, stack in stacks.items()
    }
    found = _by_stack(kept, stacks, caching)
    elsewhere = sum(k.all for k in kept) - sum(k.all for own in found.values() for k in own)
    return View(stacks, whole, flops, found, elsewhere, layers, uses)


def _by_stack(
    kept: Sequence[Kept], stacks: Mapping[str, Stack], caching: Collection[str]
) -> dict[str, list[Kept]]:
    """Return what each layer of each stack keeps: only one list of layers does, the decoder's.

    `caching` are the paths of lists whose layers were given a cache of the library's kind.
    """
    lists = dict.fromkeys(s.path for s in stacks.values() if s.length == len(kept))
    path = next(filter(caching.__contains__, lists), next(reversed(lists), None))
    return {
        name: [kept[place] if stack.path == path else Kept() for place in stack.places]
        for name, stack in stacks.items()
    }


def _note_cache(paths: set[str], path: str, _: nn.Module, args: Any, given: Any) -> None:
    if any(isinstance(value, Cache) for value in (*args, *given.values())):
        paths.add(path)


def _forget(flops: dict[str, list[int]], uses: dict[tuple[str, int, str], MatrixUse]) -> None:
    """Empty, in place, what was recorded of a pass that is begun anew."""
    for own in flops.values():
        own[:] = [0] * len(own)
    for use in uses.values():
        use.input_shapes.clear()
        use.reads = 0


def _seen_in(view: View, name: str, index: int) -> Seen:
    stack = view.stacks[name]
    matrices = {
        slot.path: (
            stack.layers[index].get_submodule(slot.path),
            slot,
            view.uses[name, index, slot.path],
        )
        for slot in stack.layer_slots[index]
    }
    flops, kept = view.layer_flops[name][index], view.layer_kept[name][index]
    return Seen(view.layers[name][index], flops, kept, matrices)


def _kind(seen: Seen) -> tuple[Any, ...]:
    """Return the properties of a layer that what it takes depends on, as a hashable key."""
    uses = tuple((slot, use.key()) for _, slot, use in seen.matrices.values())
    return tuple(seen.entries.items()), seen.flops, seen.kept, uses


def _with_change(seen: Seen, whole: Seen, own: Seen) -> Seen:
    """Return a layer with what differs between a `whole` one and one that is narrowed."""
    changed = {name: e for name, e in own.entries.items() if e != whole.entries[name]}
    matrices = {
        path: found for path, found in own.matrices.items() if found[1] != whole.matrices[path][1]
    }
    flops = seen.flops + own.flops - whole.flops
    kept = Kept(*(a + b - c for a, b, c in zip(seen.kept, own.kept, whole.kept, strict=True)))
    return Seen(seen.entries | changed, flops, kept, seen.matrices | matrices)


def _size_key(group: Group) -> tuple[Any, ...]:
    """Return a cache key: the properties of a group that change its sizes."""
    copies = tuple(
        not isinstance(init, str) and init not in own
        for own, init in zip(banks_of(group), _inits(group), strict=True)
    )
    order = (group.times, group.order, None if group.form.shares else group.init)
    return group.stack, group.layers, group.parts, tuple(banks_of(group)), group.form, order, copies


def _inits(group: Group) -> Sequence[str | int]:
    return group.inits() if banks_of(group) else ()


def _entries(model: PreTrainedModel) -> Entries:
    parameters = {name for name, _ in model.named_parameters()}
    saved = dict(sizes.saved_tensors(model))
    rows = _rows_in_eight_bits(model)
    return {
        name: Entry(
            tuple(tensor.shape), tensor.dtype, name in parameters, name in saved, rows.get(name, 0)
        )
        for name, tensor in model.state_dict(keep_vars=True).items()
    }


def _pop_prefix(entries: Entries, start: str) -> Entries:
    """Remove the entries that begin with `start`; return them by the rest of their names."""
    names = [name for name in entries if name.startswith(start)]
    return {name.removeprefix(start): entries.pop(name) for name in names}


def _without(
    lists: Mapping[str, Entries], stacks: Iterable[Stack]
) -> dict[tuple[str, int], Entries]:
    """Return, by list and place, the tensors of layers that are of none of the stacks."""
    own = {(stack.path, place) for stack in stacks for place in stack.places}
    found: dict[tuple[str, int], Entries] = defaultdict(dict)
    for path, entries in lists.items():
        for name, entry in entries.items():
            place, _, rest = name.partition(".")
            if (path, int(place)) not in own:
                found[path, int(place)][rest] = entry
    return found


def _own_entries(module: nn.Module) -> Entries:
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


def _in_eight_bits(entries: Entries) -> Entries:
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


def _parameters_by_kind(entries: Iterable[Entry]) -> tuple[int, int]:
    """Return the numbers of parameters in matrices and in vectors."""
    counts = [0, 0]
    for entry in entries:
        if entry.is_parameter:
            counts[len(entry.shape) < 2] += entry.numel
    return counts[0], counts[1]


def _replace(layer: Entries, path: str, own: Entries) -> None:
    for name in [name for name in layer if name.startswith(f"{path}.")]:
        del layer[name]
    layer |= {f"{path}.{name}": entry for name, entry in own.items()}


def _has_whole(layer: nn.Module, path: str) -> bool:
    """Return whether a layer has a norm, or experts, at `path`."""
    module = dict(layer.named_modules()).get(path)
    return module is not None and (is_norm(path, module) or are_experts(path, module))


def _build(module: nn.Module, slot: Slot, form: Form, count: int, biases: bool) -> BuiltMatrix:
    weight = weight_out_in(module).detach()
    bias: Any = module.bias
    bank = nn.ModuleDict()
    matrices = Matrices(
        slot,
        [weight] * count,
        [None if bias is None else bias.detach()] * count,
        start_of("first", list(range(count))),
        biases,
        isinstance(module, Conv1D),
    )
    with torch.device("meta"):
        readers = BUILDERS[form.name](form, matrices, bank, "entry")
    entries = {n.removeprefix("entry."): e for n, e in _own_entries(bank).items()}
    return BuiltMatrix(entries, tuple(map(_own_entries, readers)), tuple(readers))


def _flop_hooks(counter: FlopCounterMode, layer: nn.Module, flops: list[int], index: int) -> Any:
    """Return hooks that add the FLOPs of each run of the layer to ``flops[index]``."""

    def enter(*_: object) -> None:
        flops[index] -= counter.get_total_flops()

    def leave(*_: object) -> None:
        flops[index] += counter.get_total_flops()

    return [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]


@contextmanager
def _recording(module: nn.Module, use: MatrixUse) -> Iterator[None]:
    """Record in `use`, within the context, the input shapes of `module` and reads of its matrix."""

    def weight(self: nn.Module) -> Tensor | None:
        use.reads += 1
        return self._parameters["weight"]

    kind = type(module)
    hook = module.register_forward_pre_hook(
        lambda _, given: use.input_shapes.append(given[0].shape)
    )
    module.__class__ = type(kind.__name__, (kind,), {"weight": property(weight)})
    try:
        yield
    finally:
        module.__class__ = kind
        hook.remove()


def _changes_flops(reader: nn.Module) -> bool:
    """Return whether a reader takes other FLOPs, once deployed, than the matrix it replaces.

    A deployed model has composed its matrices once.
    """
    if isinstance(reader, SharedLinear):
        return not reader.composes
    return isinstance(reader, Borrower)


def _flops(module: nn.Module, use: MatrixUse) -> int:
    """Return the FLOPs of a matrix for this use; of a borrower, those of its own part."""
    if isinstance(module, Borrower):
        return 0 if module.own is None else _flops(module.own, use)
    counter = sizes.flop_counter()
    dtype = next(module.parameters()).dtype
    with FakeTensorMode(allow_non_fake_inputs=True), counter:
        for shape in use.input_shapes:
            module(torch.empty(shape, device="meta", dtype=dtype))
        for _ in range(use.looked_up):
            _ = module.weight
    return int(counter.get_total_flops())
