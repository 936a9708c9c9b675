"""Budgets that end a search: wall-clock hours, device hours, and stagnation of the front.

All is computed from the trials themselves, so that a resumed search goes on counting where it was.
"""

from collections import deque
from collections.abc import Sequence

import moocore
import numpy as np

from sharetune.results.reading.trial import Trial
from sharetune.search.sections import Budget, Resources
from sharetune.spaces.objectives import Objective


class Spending:
    """Hours that the trials of a study have cost.

    `count` is the number of trials. `wall` is the time during which at least one of the finished
    trials ran: pauses between a search and its resumption cost nothing. `cpu` and `gpu` are the
    hours of trials times the devices that the workers of each were given.
    """

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.wall = self.trials = 0.0
        self.count = 0
        self._until: dict[str, float] = {}

    @property
    def cpu(self) -> float:
        """Hours of processor cores."""
        return self.trials * self.resources.workers_per_trial * self.resources.cpu

    @property
    def gpu(self) -> float:
        """Hours of GPUs; 0 where a study does not say how much of one a trial gets."""
        return self.trials * self.resources.workers_per_trial * self.resources.stated_gpu

    def add(self, trial: Trial) -> None:
        """Add a trial that ended after those before it."""
        times = _times(trial)
        if times is None:
            return
        clock, start, end = times
        until = max(start, self._until.get(clock, start))
        self.count += 1
        self.trials += max(0.0, end - start) / 3600
        self.wall += max(0.0, end - until) / 3600
        self._until[clock] = max(end, until)


def _times(trial: Trial) -> tuple[str, float, float] | None:
    """Return a clock, and when on it the trial began and ended, in seconds; None if unknown.

    Each process has a clock of its own, which nobody sets. Trials of versions before that have the
    time of day.
    """
    ran = trial.ran
    if {"process", "from", "to"} <= set(ran):
        return str(ran["process"]), float(ran["from"]), float(ran["to"])
    if trial.began is None or trial.ended is None:
        return None
    return "time of day", trial.began.timestamp(), trial.ended.timestamp()


class Growth:
    """The hypervolume of the latest fronts, with respect to a fixed `reference` point."""

    def __init__(
        self, objectives: Sequence[Objective], reference: Sequence[float], window: int
    ) -> None:
        self._larger = [objective.direction == "maximize" for objective in objectives]
        self._hypervolume = moocore.Hypervolume(ref=reference, maximise=self._larger)
        self._latest: deque[float] = deque(maxlen=window + 1)

    def add(self, front: Sequence[Sequence[float]]) -> None:
        """Add the front after one more completed trial."""
        self._latest.append(float(self._hypervolume(np.array(front, dtype=float))))

    def over_window(self) -> float | None:
        """Return the growth over the last `window` completed trials, a fraction of the hypervolume.

        None before there are as many trials, or while the hypervolume is 0.
        """
        if len(self._latest) < (self._latest.maxlen or 0) or self._latest[-1] <= 0:
            return None
        return (self._latest[-1] - self._latest[0]) / self._latest[-1]


def spent(
    budget: Budget, spending: Spending, growth: Growth | None = None, still_to_come: float = 0.0
) -> str | None:
    """Say why no more trials are started, or return None.

    The number of trainings `still_to_come` must fit into the hours too, at the average cost of the
    trials so far.
    """
    share = still_to_come / max(1, spending.count)
    for unit in ("wall", "cpu", "gpu"):
        limit, hours = getattr(budget, f"{unit}_hours"), getattr(spending, unit)
        if limit is not None and hours * (1 + share) >= limit:
            finalists = f" and finalists take about {share * hours:.2f} more" if share else ""
            return f"{hours:.2f} {unit} hours are spent{finalists}, at most {limit:g} allowed"
    if budget.stagnation is None or growth is None:
        return None
    gained = growth.over_window()
    if gained is None or gained > budget.stagnation.gain:
        return None
    return (
        f"the hypervolume grew by {100 * gained:.2f} % over {budget.stagnation.window} trials, "
        f"at most {100 * budget.stagnation.gain:g} % is stagnation"
    )
