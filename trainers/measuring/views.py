"""Look once at a model's forward pass: FLOPs and cache of each layer, and uses of each matrix."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from sharetune.trainers.measuring import sizes
from sharetune.trainers.measuring.cache import Kept, cache_watched
from sharetune.trainers.measuring.entries import Entries, Shape, entries_of, pop_prefix
from sharetune.trainers.models.structure import Slot, Stack, find_stacks


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

    def seen(self, name: str, index: int) -> "Seen":
        """Return what was seen of one layer of the stack `name`."""
        stack = self.stacks[name]
        matrices = {
            slot.path: (
                stack.layers[index].get_submodule(slot.path),
                slot,
                self.uses[name, index, slot.path],
            )
            for slot in stack.layer_slots[index]
        }
        flops, kept = self.layer_flops[name][index], self.layer_kept[name][index]
        return Seen(self.layers[name][index], flops, kept, matrices)


@dataclass(frozen=True)
class Seen:
    """One layer as a plan narrows it: its tensors, its FLOPs, what it keeps in the cache, and by
    path each matrix that can be shared, as a module, a slot and a use."""

    entries: Entries
    flops: int
    kept: Kept
    matrices: dict[str, tuple[nn.Module, Slot, MatrixUse]]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Return the properties of the layer that what it takes depends on, as a hashable key."""
        uses = tuple((slot, use.key()) for _, slot, use in self.matrices.values())
        return tuple(self.entries.items()), self.flops, self.kept, uses

    def changed(self, whole: "Seen", own: "Seen") -> "Seen":
        """Return the layer with what differs between a `whole` one and one that is narrowed."""
        entries = {name: e for name, e in own.entries.items() if e != whole.entries[name]}
        matrices = {
            path: found
            for path, found in own.matrices.items()
            if found[1] != whole.matrices[path][1]
        }
        flops = self.flops + own.flops - whole.flops
        kept = Kept(*(a + b - c for a, b, c in zip(self.kept, own.kept, whole.kept, strict=True)))
        return Seen(self.entries | entries, flops, kept, self.matrices | matrices)


def look_at(model: PreTrainedModel, inputs: dict[str, Tensor]) -> View:
    """Run a model without banks once, without values."""
    stacks, entries = find_stacks(model), entries_of(model)
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
        name: [pop_prefix(entries, f"{stack.layer_path(i)}.") for i in range(len(stack.layers))]
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
