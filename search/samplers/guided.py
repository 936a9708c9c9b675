"""Propose the candidate with the largest expected gain in hypervolume.

A candidate's sizes are exact within a fraction of a second; its accuracy takes a training. So a
pool of candidates is drawn and counted, a forest of randomised trees (Geurts et al., Machine
Learning 63, 2006), fitted to all trials that were trained, estimates the trained objectives of
each, and the one whose training is expected to add most hypervolume is proposed. Running trials
count with their estimates, stopped ones with the values they were heading for, and faults with the
reference point.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
from optuna.trial import TrialState
from scipy.stats import rankdata

from sharetune.results.reading.trial import Draw
from sharetune.search.nondominated import Archive
from sharetune.search.samplers.base import SAMPLERS, Ask, Past, Setting, draw_seed
from sharetune.search.samplers.features import Drawer, features
from sharetune.spaces.recipe import Candidate

LEAST_TRAINED = 8
"""Trained trials before the forest is asked; until then draws are uniform."""

FRESH = 32
"""Candidates drawn anew for each ask while there are at most `FEW` trained trials."""

LEAST_FRESH = 4
"""Candidates drawn anew for each ask at least, however many trials there are."""

POOL = 128
"""Candidates kept from one ask to the next."""

FEW = 50
"""Trained trials above which fewer candidates are drawn anew, so that asking stays cheap."""

MUTATED = 0.5
"""Fraction of the fresh candidates that are changes of one on the front."""

TREES = 32
"""Trees of the forest."""

MOST_ROWS = 400
"""Trials that the forest is fitted to at most, so that a fit takes a fraction of a second."""

REFITTED = 1.02
"""Growth of the trained trials after which the forest is fitted anew."""

MOST_OF_FRONT = 200
"""Members of a front that hypervolumes are computed with, and that the forest is fitted to for
certain."""

LEAST_MEASURED = 3
"""Trained trials before the forest is asked where plans are measured untrained."""

FIRST_FRESH = 128
"""Candidates drawn anew for each ask until then: sizes say which of their plans to measure."""

FIRST_MEASURED = 32
"""Plans measured for each draw until then, at most."""

MEASURED = 8
"""Plans measured for each draw afterwards, at most."""

FALL = 0.5
"""Fall of the quality, as far as it is above the reference, from the nearest plan to the farthest,
until the forest is asked."""

MIDDLE = ("recipe", "compression")
"""Sections that are drawn at the middle of their ranges until then."""

DISTANCE = "exact.distance"
"""The feature that holds the distance of a plan, untrained, from the unshared model."""

QUANTILES = (1 / 6, 1 / 2, 5 / 6)
"""Quantiles of an estimate over which a candidate's expected gain is averaged."""

BETWEEN = QUANTILES[-1] - QUANTILES[0]
"""Probability that a value lies between the outer quantiles."""


@dataclass
class Weighed:
    """A candidate whose sizes are known. `point` holds its objectives, less being better, where
    they are exact; `guess` what the latest forest makes of the others: (quantiles, objectives)."""

    candidate: Candidate
    draw: Draw
    row: dict[str, float]
    point: np.ndarray
    guess: np.ndarray | None = None


@SAMPLERS.register("guided")
class Guided:
    """most expected hypervolume: sizes are exact, a forest guesses accuracy"""

    def __init__(self, setting: Setting) -> None:
        objectives = setting.objectives
        self.setting = setting
        self._names = [objective.name for objective in objectives]
        self._sign = np.array([o.sign for o in objectives])
        self._trained = np.array([o.source == "trained" for o in objectives])
        self._reference = self._sign * [setting.reference[name] for name in self._names]
        self._ends: dict[int, tuple[dict[str, float], np.ndarray]] = {}
        self._running: dict[int, Weighed] = {}
        self._seen: dict[int, Weighed] = {}
        self._front = Archive(len(objectives), equals=False)
        self._draws: dict[int, Draw] = {}
        self._pool: dict[str, Weighed] = {}
        self._forest: Any = None
        self._missed = np.zeros(int(self._trained.sum()))
        self._columns: list[str] = []
        self._fitted_to = 0

    def draw(self, ask: Ask) -> tuple[Candidate, Draw]:
        """Return the candidate of the pool with the largest expected gain in hypervolume."""
        seed = draw_seed(self.setting.seed, ask.drawn)
        rng = random.Random(seed)
        begins = len(self._ends) < (LEAST_TRAINED if ask.measure is None else LEAST_MEASURED)
        if (begins and ask.measure is None) or not self._trained.any():
            return self._drawn(ask, rng, None)
        self._fill_pool(ask, rng, middle=begins)
        if not self._pool:
            return self._drawn(ask, rng, None)
        best = self._nearest(ask) if begins else self._best(ask, seed)
        return best.candidate, best.draw

    def _best(self, ask: Ask, seed: int) -> Weighed:
        """Return the candidate whose training is expected to add most, with its plan measured.

        Those that seem best are measured first, until the best of all is one of them.
        """
        self._fit(seed)
        for _ in range(MEASURED):
            keys, weighed = list(self._pool), list(self._pool.values())
            order = np.argsort(-self._gains(weighed), kind="stable")
            best = weighed[order[0]]
            if not self._measured(best, ask):
                break
        self._pool = {keys[i]: weighed[i] for i in order[:POOL]}
        return best

    def _measured(self, weighed: Weighed, ask: Ask) -> bool:
        """Measure a candidate's plan; return whether it has a distance now that it had not."""
        if ask.measure is None or DISTANCE in weighed.row:
            return False
        distance = ask.measure(weighed.candidate)
        if distance is None:
            return False
        weighed.row[DISTANCE], weighed.guess = distance, None
        return True

    def _nearest(self, ask: Ask) -> Weighed:
        """Return the candidate that would add most if quality fell evenly with the distance.

        That is by the distances' ranks, among those measured, of which some are trained.
        """
        pool = list(self._pool.values())
        for weighed in self._promising([w for w in pool if DISTANCE not in w.row]):
            self._measured(weighed, ask)
        known = [w for w in pool if DISTANCE in w.row] or pool
        seen = [*self._seen.values()]
        distances = np.array([w.row.get(DISTANCE, 0.0) for w in (*known, *seen)])
        ranks = rankdata(distances) / len(distances)
        points = np.array([w.point for w in (*known, *seen)])
        points[:, self._trained] = (self._reference[self._trained] - 1) + FALL * ranks[:, None]
        rest, taken = points[: len(known)], points[len(known) :]
        hypervolume = moocore.Hypervolume(ref=self._reference)
        volumes = [hypervolume(np.vstack([taken, point])) for point in rest]
        return known[int(np.argmax(volumes))]

    def _promising(self, pool: Sequence[Weighed]) -> list[Weighed]:
        """Return candidates to measure: by turns the one whose sizes are worth most, and any."""
        if not pool:
            return []
        exact = ~self._trained
        sides = self._reference[exact] - np.array([w.point[exact] for w in pool])
        worth = np.argsort(-sides.clip(min=0).prod(axis=1), kind="stable")
        both = zip(worth, range(len(pool)), strict=True)
        turns = dict.fromkeys(place for pair in both for place in pair)
        return [pool[place] for place in turns][:FIRST_MEASURED]

    def note(self, past: Past) -> None:
        """Note a trial that was started, or has ended."""
        self._running.pop(past.number, None)
        if past.exact is None:
            return
        found = self._weighed(past.candidate, past.draw, past.exact)
        if len(self._ends) < max(LEAST_TRAINED, LEAST_MEASURED):
            self._seen[past.number] = found
        if past.state is TrialState.RUNNING:
            self._running[past.number] = found
        elif past.state is TrialState.COMPLETE and past.values is not None:
            end = self._sign * np.array(past.values)
            self._ends[past.number] = found.row, end
            self._extend_front(past.number, end, past.draw)
        elif past.state is TrialState.PRUNED:
            worst = np.where(self._trained, self._reference, found.point)
            end = worst if past.expected is None else self._sign * past.expected
            self._ends[past.number] = found.row, end

    def _weighed(self, candidate: Candidate, draw: Draw, exact: dict[str, float]) -> Weighed:
        point = self._sign * [exact.get(name, np.nan) for name in self._names]
        return Weighed(candidate, draw, self.row_of(candidate, exact), point)

    def row_of(self, candidate: Candidate, exact: dict[str, float]) -> dict[str, float]:
        """Describe a candidate, and what is exact of it, by numbers for the forest."""
        return features(candidate, exact)

    def _extend_front(self, number: int, end: np.ndarray, draw: Draw) -> None:
        self._front.add(number, end)
        known = self._draws | {number: draw}
        self._draws = {number: known[number] for number in self._front.numbers}

    def _fill_pool(self, ask: Ask, rng: random.Random, *, middle: bool = False) -> None:
        """Draw fresh candidates into the pool; drop those started or refused meanwhile."""
        kept = {key: w for key, w in self._pool.items() if not ask.is_known(key)}
        parents = [draw for draw in self._draws.values() if draw.params]
        later = max(LEAST_FRESH, FRESH * FEW // max(FEW, len(self._ends)))
        fresh = FIRST_FRESH if middle else later
        for _ in range(fresh):
            parent = rng.choice(parents) if parents and rng.random() < MUTATED else None
            candidate, draw = self._drawn(ask, rng, parent, middle=middle)
            key = candidate.key()
            if ask.is_known(key) or key in kept:
                continue
            exact = ask.weigh(candidate)
            if exact is not None:
                kept[key] = self._weighed(candidate, draw, exact)
        self._pool = kept

    def _drawn(
        self, ask: Ask, rng: random.Random, parent: Draw | None, *, middle: bool = False
    ) -> tuple[Candidate, Draw]:
        drawer = Drawer(rng, parent, middle=MIDDLE if middle else ())
        return ask.space.suggest(drawer, ask.shapes), drawer.draw

    def _fit(self, seed: int) -> None:
        """Fit the forest anew once enough trials have ended since the last fit.

        Each tree sees a sample of the trials. By how much the trees miss those that they have not
        seen says how far an estimate may be wrong even where all trees agree.
        """
        if self._forest is not None and len(self._ends) < self._fitted_to * REFITTED:
            return
        from sklearn.ensemble import ExtraTreesRegressor

        numbers = list(self._ends)
        if len(numbers) > MOST_ROWS:
            sampled = random.Random(seed).sample(numbers, MOST_ROWS)
            numbers = sorted({*sampled, *self._front.numbers[-MOST_OF_FRONT:]})
        rows = [self._ends[number][0] for number in numbers]
        self._columns = sorted({name for row in rows for name in row})
        ends = np.array([self._ends[number][1] for number in numbers])[:, self._trained]
        self._forest = ExtraTreesRegressor(
            TREES, bootstrap=True, oob_score=True, random_state=seed
        ).fit(self._matrix(rows), ends[:, 0] if ends.shape[1] == 1 else ends)
        misses = np.abs(self._forest.oob_prediction_.reshape(ends.shape) - ends)
        self._missed = np.quantile(misses, BETWEEN, axis=0)
        self._fitted_to = len(self._ends)
        for weighed in (*self._pool.values(), *self._running.values()):
            weighed.guess = None

    def _matrix(self, rows: Sequence[dict[str, float]]) -> np.ndarray:
        table = [[row.get(name, -1.0) for name in self._columns] for row in rows]
        return np.array(table, dtype=np.float32)

    def _guessed(self, weighed: Sequence[Weighed]) -> np.ndarray:
        """Return candidates' objectives at the quantiles: (quantiles, candidates, objectives)."""
        fresh = [w for w in weighed if w.guess is None]
        if fresh:
            rows = self._matrix([w.row for w in fresh])
            trees = np.array([tree.tree_.predict(rows) for tree in self._forest.estimators_])
            trees = trees.reshape(len(trees), len(rows), -1)
            low, middle, high = np.quantile(trees, QUANTILES, axis=0)
            low = middle - np.hypot(middle - low, self._missed)
            high = middle + np.hypot(high - middle, self._missed)
            for w, guess in zip(fresh, np.stack([low, middle, high], axis=1), strict=True):
                w.guess = np.repeat(w.point[None], len(QUANTILES), axis=0)
                w.guess[:, self._trained] = guess
        return np.stack([w.guess for w in weighed if w.guess is not None], axis=1)

    def _gains(self, weighed: Sequence[Weighed]) -> np.ndarray:
        """Return the hypervolume that each candidate is expected to add: (candidates,)."""
        running = np.empty((0, len(self._names)))
        if self._running:
            running = self._guessed(list(self._running.values()))[len(QUANTILES) // 2]
        front = np.concatenate([self._front.spread(MOST_OF_FRONT), running])
        hypervolume = moocore.Hypervolume(ref=self._reference)
        before = hypervolume(front) if len(front) else 0.0
        points = self._guessed(weighed)
        gains = np.zeros(points.shape[:2])
        adds = _adds(points, np.concatenate([self._front.points, running]))
        for place in zip(*np.nonzero(adds), strict=True):
            gains[place] = hypervolume(np.vstack([front, points[place]])) - before
        return gains.mean(axis=0)


def _adds(points: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Return which of the points (..., objectives) no point of the front beats or equals."""
    beaten = np.ones((*points.shape[:-1], len(front)), dtype=bool)
    for place in range(points.shape[-1]):
        beaten &= front[:, place] <= points[..., None, place]
    return np.logical_not(beaten.any(axis=-1))
