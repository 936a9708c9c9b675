"""Describe the stack of layers that a plan is bound to."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sharetune.spaces.forms import Narrow
from sharetune.spaces.parts import ATTENTION, EXPERTS, FFN

ONLY_WHOLE = "layers"
"""The name of a model's only list of layers of one kind, which plans need not name."""


@dataclass(frozen=True)
class StackShape:
    """The sizes of one stack of layers that a plan is bound to.

    `depth` counts layers, `heads` the units of attention (KV groups under grouped-query
    attention), `neurons` the width of the FFN's intermediate layer: one number, or one for each
    layer where they differ. `similarity`, where it was measured, is the linear CKA (0..1) of each
    two layers' outputs. `experts` counts those of a mixture, 0 where there is none.
    """

    depth: int
    heads: int | tuple[int, ...]
    neurons: int | tuple[int, ...]
    similarity: tuple[tuple[float, ...], ...] | None = None
    experts: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        for name in ("heads", "neurons", "experts"):
            counts = getattr(self, name)
            if not isinstance(counts, int):
                equal = len(set(counts)) == 1
                object.__setattr__(self, name, counts[0] if equal else tuple(counts))

    @property
    def is_uniform(self) -> bool:
        """Whether all layers are of one width."""
        counts = self.heads, self.neurons, self.experts
        return all(isinstance(count, int) for count in counts)

    def heads_of(self, layer: int) -> int:
        """Return the units of attention in `layer`."""
        return self.heads if isinstance(self.heads, int) else self.heads[layer]

    def neurons_of(self, layer: int) -> int:
        """Return the width of the FFN in `layer`."""
        return self.neurons if isinstance(self.neurons, int) else self.neurons[layer]

    def experts_of(self, layer: int) -> int:
        """Return the number of experts in `layer`, 0 if it has no mixture."""
        return self.experts if isinstance(self.experts, int) else self.experts[layer]

    def units(self, roles: Iterable[str], layer: int = 0) -> tuple[int, ...]:
        """Return the numbers of units a ratio is rounded to: heads, neurons in eights, experts."""
        roles = set(roles)
        attention = (self.heads_of(layer),) if roles & set(ATTENTION) else ()
        neurons = (self.neurons_of(layer) // 8,) if roles & set(FFN) else ()
        return attention + neurons + ((self.experts_of(layer),) if EXPERTS in roles else ())

    def lacking_parts(self) -> list[str]:
        """Return the parts, `attention` or `ffn`, of which no layer has one of a known kind.

        Plans leave them as they are.
        """
        counts = {"attention": map(self.heads_of, range(self.depth))}
        counts["ffn"] = map(self.neurons_of, range(self.depth))
        return [part for part, units in counts.items() if not any(units)]

    def at(self, order: Sequence[int]) -> "StackShape":
        """Return the shape of a stack in which these layers of it run."""
        counts = map(self.heads_of, order), map(self.neurons_of, order), map(self.experts_of, order)
        heads, neurons, experts = map(tuple, counts)
        return StackShape(len(order), heads, neurons, experts=experts)

    def narrowed(self, layers: Iterable[int], parts: Collection[str], form: Narrow) -> "StackShape":
        """Return the shape that is left where `layers` keep `form`'s fraction of these parts."""
        heads = [self.heads_of(layer) for layer in range(self.depth)]
        neurons = [self.neurons_of(layer) for layer in range(self.depth)]
        experts = [self.experts_of(layer) for layer in range(self.depth)]
        for layer in layers:
            if set(ATTENTION) <= set(parts):
                heads[layer] = form.kept(heads[layer])
            if set(FFN) <= set(parts):
                neurons[layer] = 8 * form.kept(neurons[layer] // 8)
            if EXPERTS in parts:
                experts[layer] = form.kept(experts[layer])
        widths = {"heads": tuple(heads), "neurons": tuple(neurons), "experts": tuple(experts)}
        return replace(self, **widths)  # type: ignore[arg-type]


def lacking_parts(stacks: Mapping[str, StackShape]) -> dict[str, list[str]]:
    """Return the parts of no known kind by stack, see :meth:`StackShape.lacking_parts`."""
    return {name: shape.lacking_parts() for name, shape in stacks.items()}
