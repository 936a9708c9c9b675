"""The exact front of savings against cost over all sets of disjoint choices.

Dynamic programming from the last layer to the first. A node says how far each of the two parts
of the layers is settled; its front holds the least cost for each saving that what is left can
still reach. The part that is behind goes on first, so that each set of choices has exactly one
way through the nodes, and any front is enough to walk that way: nothing else is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count as counted
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

ROUNDING = 1e-13
"""Largest rounding error of sums of savings, relative to the largest; counts to 2**43 are exact."""


class Choice(NamedTuple):
    """One edit as the solver sees it: the caller's `number`, and layers `first` to `end`, the last
    excluded, counted through all stacks."""

    number: int
    first: int
    end: int
    attention: bool
    ffn: bool
    removes: bool
    saved: float
    cost: float


class Node(NamedTuple):
    """Layers up to which attention and FFNs are settled, and whether a layer of this stack stays.

    Counted through all stacks.
    """

    attention: int
    ffn: int
    stays: bool


class Move(NamedTuple):
    """A way on from a node: by a choice, or, without a number, by one part of a layer left as it
    is."""

    to: Node
    number: int | None
    saved: float
    cost: float

    def beats(self, other: "Move") -> bool:
        """Whether it leads to the same node and is better in one respect, and worse in none."""
        same = self.to == other.to and (self.saved, self.cost) != (other.saved, other.cost)
        return same and self.saved >= other.saved and self.cost <= other.cost


Way = tuple[float, int, Node, float, float, tuple[int, ...]]
"""Cost when finished, tie-breaker, node, savings still needed, cost so far, choices."""


@dataclass(frozen=True)
class Front:
    """Savings, ascending, and the least cost of at least each of them, ascending too."""

    saved: Numbers
    cost: Numbers

    def least(self, need: float) -> float:
        """Return the least cost that saves `need` at least; infinity if nothing does."""
        at = int(np.searchsorted(self.saved, need))
        return float(self.cost[at]) if at < len(self.cost) else np.inf


class Layout:
    """The moves between nodes for choices over stacks that end at the layers `ends`, ascending."""

    def __init__(self, choices: Sequence[Choice], ends: Sequence[int]) -> None:
        self.ends = frozenset(ends)
        self.end = Node(max(ends, default=0), max(ends, default=0), False)
        self.choices: dict[tuple[int, bool, bool], list[Choice]] = {}
        for choice in choices:
            place = choice.first, choice.attention, choice.ffn
            self.choices.setdefault(place, []).append(choice)

    def moves(self, node: Node) -> Iterator[Move]:
        """All ways on from a node."""
        attention, ffn, _ = node
        if node == self.end:
            return
        goes = attention <= ffn
        yield from self._move(node, None, goes, not goes)
        for choice in self.choices.get((min(attention, ffn), goes, not goes), ()):
            yield from self._move(node, choice, goes, not goes)
        if attention == ffn:
            for choice in self.choices.get((attention, True, True), ()):
                yield from self._move(node, choice, True, True)

    def _move(
        self, node: Node, choice: Choice | None, attention: bool, ffn: bool
    ) -> Iterator[Move]:
        steps = choice.end - choice.first if choice else 1
        stays = node.stays or choice is None or not choice.removes
        to = Node(node.attention + steps * attention, node.ffn + steps * ffn, stays)
        if to.attention == to.ffn and to.ffn in self.ends:
            if not stays:
                return
            to = to._replace(stays=False)
        number, saved, cost = (choice.number, choice.saved, choice.cost) if choice else (None, 0, 0)
        yield Move(to, number, saved, cost)

    def nodes(self) -> list[Node]:
        """All nodes that can be reached, each before those it leads to."""
        found, left = {self.start}, [self.start]
        while left:
            for move in self.moves(left.pop()):
                if move.to not in found:
                    found.add(move.to)
                    left.append(move.to)
        return sorted(found, key=lambda node: node.attention + node.ffn)

    @property
    def start(self) -> Node:
        """The node where nothing is settled."""
        return Node(0, 0, False)


class Fronts:
    """The fronts of all nodes, from which the best sets of choices for any saving are read."""

    def __init__(self, choices: Sequence[Choice], ends: Sequence[int]) -> None:
        self.layout = Layout(choices, ends)
        self.by_node = {self.layout.end: Front(np.zeros(1), np.zeros(1))}
        for node in reversed(self.layout.nodes()):
            if node != self.layout.end:
                self.by_node[node] = self._joined(list(self.layout.moves(node)))

    @property
    def whole(self) -> Front:
        """The front over all sets of disjoint choices."""
        return self.by_node[self.layout.start]

    def _joined(self, moves: Sequence[Move]) -> Front:
        moves = [move for move in moves if not any(other.beats(move) for other in moves)]
        after = [self.by_node[move.to] for move in moves]
        saved = [front.saved + move.saved for front, move in zip(after, moves, strict=True)]
        cost = [front.cost + move.cost for front, move in zip(after, moves, strict=True)]
        return _nondominated(np.concatenate(saved), np.concatenate(cost))

    def best(self, need: float) -> Iterator[tuple[int, ...]]:
        """Yield the numbers of the choices of each set that saves `need` at least, cheapest first.

        A best-first search (A*) in which what is left to pay is known exactly.
        """
        order = counted()
        need -= ROUNDING * float(self.whole.saved[-1])
        first = (self.whole.least(need), next(order), self.layout.start, need, 0.0, ())
        heap: list[Way] = [first] if first[0] < np.inf else []
        while heap:
            _, _, node, lacking, paid, chosen = heappop(heap)
            if node == self.layout.end:
                yield chosen
            for move in self.layout.moves(node):
                cost, left = paid + move.cost, lacking - move.saved
                total = cost + self.by_node[move.to].least(left)
                if total < np.inf:
                    numbers = chosen if move.number is None else (*chosen, move.number)
                    heappush(heap, (total, next(order), move.to, left, cost, numbers))


def _nondominated(saved: Numbers, cost: Numbers) -> Front:
    order = np.argsort(saved, kind="stable")[::-1]
    saved, cost = saved[order], cost[order]
    cheaper = np.append(True, cost[1:] < np.minimum.accumulate(cost)[:-1])
    saved, cost = saved[cheaper][::-1], cost[cheaper][::-1]
    cheapest = np.append(True, saved[1:] > saved[:-1])
    return Front(saved[cheapest], cost[cheapest])
