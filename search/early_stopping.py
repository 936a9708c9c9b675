"""Early stopping with several objectives: decide which trainings go on at a rung.

Sizes are exact before anything is trained; only the trained objectives (accuracy) are uncertain.
So a training is stopped only where both hold:

1. It could not enter the front: with the best gain that the finished trials nearest to it made
   from this rung to their end, or one `LUCKY` standard deviations above their mean if that is
   more, a finished trial would still beat it or equal it in everything.
2. It is not among the first ``1 / eta`` of all that reached this rung, by non-dominated rank
   and, within a rank, by the epsilon-net order of MO-ASHA (arXiv 2106.12639).

Decisions are asynchronous: each is made when a training reaches a rung, by what is known then.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import moocore
import numpy as np

from sharetune.spaces.objectives import Objective

NEAREST = 8
"""Finished trials that predict the gain from a rung; no trial is stopped before there are 8."""
LUCKY = 2.0
"""Standard deviations above the mean of a gain that is still counted with: the best of eight gains
alone is beaten by every ninth."""
LATEST = 512
"""Trials a rung is ranked over, so that a decision costs the same in a large study."""

Vector = np.ndarray
"""A trial's objectives, (objectives,), each turned so that less is better."""


class EarlyStopper:
    """The early-stopping rule, with the rung values and final values of all trials.

    `objectives` are the study's. Values at a rung are those that the training has reached in the
    trained objectives, and the final ones in the exact objectives.
    """

    def __init__(self, objectives: Sequence[Objective], *, eta: float = 3.0) -> None:
        self.objectives = tuple(objectives)
        self.eta = eta
        self._sign = np.array([o.sign for o in objectives])
        self._trained = np.array([o.source == "trained" for o in objectives])
        self._rungs: dict[int, dict[int, Vector]] = defaultdict(dict)
        self._finished: dict[int, Vector] = {}

    def reached(self, number: int, rung: int, values: Mapping[str, float]) -> bool:
        """Note the values of trial `number` at `rung`; return whether its training goes on.

        It goes on if a value is missing or not finite: how it ends will show.
        """
        vector = self._vector(values)
        if vector is None:
            return True
        self._rungs[rung][number] = vector
        return not self._is_hopeless(rung, vector) or self._is_ahead(rung, number)

    def finished(self, number: int, values: Mapping[str, float]) -> None:
        """Note the final values of a trial that was trained to its end."""
        vector = self._vector(values)
        if vector is not None:
            self._finished[number] = vector

    def expected(self, number: int) -> Vector | None:
        """Predict the final values of a stopped trial, in the objectives' own directions.

        They are its values at its last rung plus its neighbours' median gain; None before there are
        enough.
        """
        rung = max((r for r, seen in self._rungs.items() if number in seen), default=None)
        if rung is None:
            return None
        vector = self._rungs[rung][number]
        gains = self._gains(rung, vector)
        return None if gains is None else self._sign * (vector + np.median(gains, axis=0))

    def _vector(self, values: Mapping[str, float]) -> Vector | None:
        found = np.array([values.get(o.name, np.nan) for o in self.objectives], dtype=float)
        return self._sign * found if np.isfinite(found).all() else None

    def _gains(self, rung: int, vector: Vector) -> np.ndarray | None:
        """Return the gains of the nearest finished trials from this rung to the end.

        Shape (NEAREST, objectives).
        """
        seen = self._rungs[rung]
        known = [number for number in self._finished if number in seen][-LATEST:]
        if len(known) < NEAREST or not self._trained.any():
            return None
        at_rung = np.array([seen[number] for number in known])
        gains = np.array([self._finished[number] for number in known]) - at_rung
        distance = np.abs(at_rung - vector)[:, self._trained]
        spread = np.ptp(at_rung[:, self._trained], axis=0)
        nearest = (distance / np.where(spread > 0, spread, 1.0)).sum(axis=1).argsort(kind="stable")
        return np.where(self._trained, gains, 0.0)[nearest[:NEAREST]]

    def _is_hopeless(self, rung: int, vector: Vector) -> bool:
        gains = self._gains(rung, vector)
        if gains is None:
            return False
        lucky = gains.mean(axis=0) - LUCKY * gains.std(axis=0, ddof=1)
        best = vector + np.minimum(lucky, gains.min(axis=0))
        return bool((np.array(list(self._finished.values())) <= best).all(axis=1).any())

    def _is_ahead(self, rung: int, number: int) -> bool:
        """Say whether the trial is among the first ``1 / eta`` at the rung."""
        latest = list(self._rungs[rung])[-LATEST:]
        points = np.array([self._rungs[rung][n] for n in latest])
        kept = max(1, int(len(latest) / self.eta))
        return promotion_place(points, latest.index(number)) < kept


def promotion_order(points: np.ndarray) -> list[int]:
    """Return indices of `points` (n, objectives), less is better, from first to last promoted.

    By non-dominated rank; within a rank by epsilon net: each next point is the one farthest
    from those chosen, all objectives scaled to 0..1, the first being the best in the first.
    """
    ranks, scaled = _ranked(points)
    turns = np.empty(len(points), dtype=int)
    for rank in np.unique(ranks):
        turns[ranks == rank] = epsilon_net(scaled[ranks == rank])
    return [int(index) for index in np.lexsort((turns, ranks))]


def spread_over(points: np.ndarray, most: int) -> list[int]:
    """Return indices of at most `most` of `points` (n, objectives), less being better.

    Up to `most` points keep their order; of more, the first in :func:`promotion_order` are taken.
    """
    return list(range(len(points))) if len(points) <= most else promotion_order(points)[:most]


def promotion_place(points: np.ndarray, index: int) -> int:
    """Return the place of the point at `index` in :func:`promotion_order`, from 0, at less cost."""
    ranks, scaled = _ranked(points)
    index %= len(points)
    members = np.flatnonzero(ranks == ranks[index])
    ahead = int((ranks < ranks[index]).sum())
    return ahead + int(epsilon_net(scaled[members])[np.searchsorted(members, index)])


def _ranked(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    return moocore.pareto_rank(points), scaled


def epsilon_net(points: np.ndarray) -> np.ndarray:
    """Return the place (n,) of each point when the next is always farthest from those before.

    The first is the least in the first coordinate.
    """
    turns = np.empty(len(points), dtype=int)
    chosen, distance = int(np.lexsort(points.T[::-1])[0]), np.full(len(points), np.inf)
    for turn in range(len(points)):
        turns[chosen] = turn
        distance = np.minimum(distance, ((points - points[chosen]) ** 2).sum(axis=1))
        distance[chosen] = -1.0
        chosen = int(distance.argmax())
    return turns
