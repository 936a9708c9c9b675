"""Say in which order the layers of a list run, if a plan drops or repeats layers of its stacks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sharetune.trainers.models.structure import Stack

Orders = Mapping[str, Sequence[int]]
"""By stack, the layer (0-based, of the unshared stack) that runs at each of its positions."""


@dataclass(frozen=True)
class Arrangement:
    """The layers of the list at `path`, of one stack or of several kinds, as they run.

    `order` gives, at each place, the layer's place in the unshared list.
    """

    path: str
    stacks: tuple[Stack, ...]
    order: tuple[int, ...]

    @property
    def length(self) -> int:
        """Return the number of layers of the unshared list."""
        return self.stacks[0].length

    @property
    def is_changed(self) -> bool:
        """Return whether any layer is dropped or repeated."""
        return self.order != tuple(range(self.length))

    def places(self, stack: str) -> tuple[int, ...]:
        """Return the places of the list, as it runs, that the layers of a stack are at."""
        own = next(one.places for one in self.stacks if one.name == stack)
        return tuple(place for place, before in enumerate(self.order) if before in own)


def arrangements(stacks: Mapping[str, Stack], orders: Orders) -> list[Arrangement]:
    """Return how the layers of each list run, given the orders of its stacks.

    Layers of no stack stay; what is repeated runs right after the layer that it follows.
    """
    by_path: dict[str, list[Stack]] = {}
    for stack in stacks.values():
        by_path.setdefault(stack.path, []).append(stack)
    return [
        Arrangement(path, tuple(own), tuple(_list_order(own, orders)))
        for path, own in by_path.items()
    ]


def _list_order(stacks: Sequence[Stack], orders: Orders) -> Iterator[int]:
    runs: dict[int, list[int]] = {place: [place] for place in range(stacks[0].length)}
    for stack in stacks:
        for place in stack.places:
            runs[place] = []
        latest, seen = 0, set()
        for layer in orders[stack.name]:
            place = stack.places[layer]
            latest = latest if layer in seen else place
            seen.add(layer)
            runs[latest].append(place)
    return (place for own in runs.values() for place in own)
