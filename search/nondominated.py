"""The non-dominated points of a search, kept up to date as trials end."""

import numpy as np


class Archive:
    """Non-dominated points in `objectives` dimensions, less being better, with their trial numbers.

    Of equal points all are kept if `equals`, else the first.
    """

    def __init__(self, objectives: int, *, equals: bool = True) -> None:
        self.numbers: list[int] = []
        self.points = np.empty((0, objectives))
        self.equals = equals
        self._members: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number in self._members

    def add(self, number: int, point: np.ndarray) -> None:
        """Add the point of trial `number` unless it is dominated; drop those that it dominates."""
        not_worse = (self.points <= point).all(axis=1)
        equal = not_worse & (self.points == point).all(axis=1)
        beaten_by = not_worse & ~equal if self.equals else not_worse
        if beaten_by.any():
            return
        stays = equal | ~(point <= self.points).all(axis=1)
        self.points = np.vstack([self.points[stays], point])
        kept = zip(self.numbers, stays, strict=True)
        self.numbers = [*(old for old, stay in kept if stay), number]
        self._members = set(self.numbers)

    def spread(self, most: int) -> np.ndarray:
        """Return at most `most` points, evenly spaced along the first objective.

        Shape (points, objectives).
        """
        if len(self.points) <= most:
            return self.points
        order = np.lexsort(self.points.T[::-1])
        return self.points[order[np.linspace(0, len(order) - 1, most).round().astype(int)]]
