"""When a search has had enough: wall-clock, device hours, and a front that stopped growing.

All is taken from the trials themselves, so that a resumed search goes on counting where it was.
"""

from collections import deque
from collections.abc import Sequence
from datetime import datetime

import moocore
import numpy as np

from sharetune.results.reading.trial import Trial
from sharetune.search.config import Budget, Resources
from sharetune.spaces.objectives import Objective


class Spending:
    """What the trials of a study have cost, in hours.

    `count` says of how many trials. `wall` is the time during which at least one of the finished
    trials ran: pauses between a search and its resumption cost nothing. `cpu` and `gpu` are hours
    of trials, times what all workers of each were given.
    """

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.wall = self.trials = 0.0
        self.count = 0
        self._until: datetime | None = None

    @property
    def cpu(self) -> float:
        """Hours of processor cores."""
        return self.trials * self.resources.workers_per_trial * self.resources.cpu

    @property
    def gpu(self) -> float:
        """Hours of GPUs, none where a study leaves open what a trial is given."""
        return self.trials * self.resources.workers_per_trial * (self.resources.gpu or 0.0)

    def add(self, trial: Trial) -> None:
        """A trial that ended after those before it."""
        start, end = trial.began, trial.ended
        if start is None or end is None:
            return
        self.count += 1
        self.trials += _hours(start, end)
        self.wall += _hours(start if self._until is None else max(start, self._until), end)
        self._until = end if self._until is None else max(end, self._until)


def _hours(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds()) / 3600


class Growth:
    """The hypervolume of the latest fronts; `reference` gives the fixed reference point."""

    def __init__(
        self, objectives: Sequence[Objective], reference: Sequence[float], window: int
    ) -> None:
        self._larger = [objective.direction == "maximize" for objective in objectives]
        self._hypervolume = moocore.Hypervolume(ref=reference, maximise=self._larger)
        self._latest: deque[float] = deque(maxlen=window + 1)

    def add(self, front: Sequence[Sequence[float]]) -> None:
        """The front after one more completed trial."""
        self._latest.append(float(self._hypervolume(np.array(front, dtype=float))))

    def over_window(self) -> float | None:
        """Growth over the last `window` completed trials, as a fraction of what there is; None
        before there are as many, or any hypervolume."""
        if len(self._latest) < (self._latest.maxlen or 0) or self._latest[-1] <= 0:
            return None
        return (self._latest[-1] - self._latest[0]) / self._latest[-1]


def spent(
    budget: Budget, spending: Spending, growth: Growth | None = None, still_to_come: float = 0.0
) -> str | None:
    """Why no more trials are started, or None. So many trainings `still_to_come` must fit into the
    hours too, by what those before have cost."""
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
