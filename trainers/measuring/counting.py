"""Count a plan's parameters, bytes and FLOPs from a catalogue of the unshared model.

Building a shared model and running it without values takes a third of a second. Here the unshared
model is run once. A plan is then a list of tensors removed and added, which the forms' own builders
make for one matrix at a time, and of products that became cheaper. The numbers equal those of
:func:`sharetune.trainers.measuring.sizes.facts`, as tests check.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from transformers import PreTrainedModel
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
from sharetune.trainers.measuring.entries import (
    Entries,
    Entry,
    entries_of,
    in_eight_bits,
    own_entries,
    parameters_by_kind,
    pop_prefix,
    replace_entries,
)
from sharetune.trainers.measuring.exact import Sized, further_facts
from sharetune.trainers.measuring.views import (
    MatrixUse,
    Seen,
    View,
    look_at,
)
from sharetune.trainers.models.activation_reuse import Borrower
from sharetune.trainers.models.arrangement import arrangements
from sharetune.trainers.models.feasibility import check_feasible
from sharetune.trainers.models.forms.base import BUILDERS, Matrices
from sharetune.trainers.models.layer_inputs import input_width
from sharetune.trainers.models.mixtures import are_experts
from sharetune.trainers.models.modules import SharedLinear
from sharetune.trainers.models.narrowing import narrow_
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


@dataclass(frozen=True)
class BuiltMatrix:
    """One matrix as a form builds it: the bank's tensors, each reader's, and the readers."""

    bank: Entries
    own: tuple[Entries, ...]
    readers: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Shallow:
    """A `model` with fewer layers, and the place in it of a layer like each, by stack and index."""

    model: PreTrainedModel
    places: Mapping[tuple[str, int], int]

    def seen_in(self, view: View, name: str, index: int) -> Seen:
        """Return what a layer of the whole model is in a view of this one."""
        return view.seen(name, self.places[name, index])


class Counting:
    """Count plans for one `unshared` model on the meta device and one sample of `inputs`."""

    def __init__(self, unshared: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
        self.unshared, self.inputs = unshared, inputs
        self._rest = entries_of(unshared)
        self._view = look_at(copy.deepcopy(unshared), inputs)  # some models keep states of a pass
        self.stacks = self._view.stacks
        self._whole, self._single = sizes.shareable(self.stacks.values())
        lists = {stack.path for stack in self.stacks.values()}
        within = {path: pop_prefix(self._rest, f"{path}.") for path in lists}
        self._lone = _without(within, self.stacks.values())
        self._before = self._layer_totals()
        self._whole_layers = {
            (name, index): self._view.seen(name, index)
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
        matrices, vectors = parameters_by_kind(in_stacks.values())
        lost = self._before[0] + self._before[1] - matrices - vectors
        other = self._before[1] - vectors
        rest = self._rest
        if compression.eight_bits:
            in_stacks, rest = in_eight_bits(in_stacks), in_eight_bits(rest)
        stored = sum(parameters_by_kind(in_stacks.values()))
        saved = {n: e for n, e in (rest | in_stacks).items() if e.is_saved}
        return {
            "parameters": stored + sum(parameters_by_kind(rest.values())),
            "stack_parameters": stored,
            "bytes": sizes.file_bytes((n, e.shape, e.dtype) for n, e in saved.items()),
            "flops": flops,
            "effective_ratio": round((lost - other) / (self._whole - self._single), 6),
        }

    def _layer_totals(self) -> tuple[int, int]:
        """Return the numbers of elements in matrices and in vectors of all unshared layers."""
        layers = [own for layers in self._view.layers.values() for own in layers]
        every = [e for own in (*layers, *self._lone.values()) for e in own.values()]
        return parameters_by_kind(every)

    def _seen(self, plan: SharingPlan) -> dict[tuple[str, int], Seen]:
        """Return every layer as the plan narrows it, before anything is shared."""
        seen = dict(self._whole_layers)
        for group in plan.groups:
            for view in self._views(group) if isinstance(group.form, Narrow) else ():
                for index in map(int, group.layers):
                    place = group.stack or "", index
                    whole, own = self._whole_layers[place], self._shallow.seen_in(view, *place)
                    seen[place] = seen[place].changed(whole, own)
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
                    self._narrowed[key] = look_at(model, self.inputs)
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
            kinds = [self._whole_layers[name, index].kind for index in range(depth)]
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
                replace_entries(layers[place], slot.path, own)
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
                replace_entries(layers[place], path, {})
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
    entries = {n.removeprefix("entry."): e for n, e in own_entries(bank).items()}
    return BuiltMatrix(entries, tuple(map(own_entries, readers)), tuple(readers))


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
