"""The points of a search that no other beats, kept up to date as trials end."""

import numpy as np


class Archive:
    """Points in so many `objectives`, less being better, with the numbers of their trials.

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
        """Takes in the point, unless it is beaten, and lets go of those it beats."""
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
        """The points, or of more than `most` every so-manieth in order of the first objective."""
        if len(self.points) <= most:
            return self.points
        order = np.lexsort(self.points.T[::-1])
        return self.points[order[np.linspace(0, len(order) - 1, most).round().astype(int)]]
