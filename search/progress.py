"""Print a search's progress: one line for each finished trial, and a status line."""

import time
from collections.abc import Sequence

from optuna.trial import TrialState
from rich.console import Console
from rich.status import Status

from sharetune.results.formatting import margin, plural, quantity, short_title
from sharetune.results.reading.trial import Trial
from sharetune.search.estimate import seconds_to_come
from sharetune.search.progress_bars import NotebookBar, clock, stderr_console
from sharetune.search.search import Search
from sharetune.spaces.anchors import ANCHORS, UNSHARED
from sharetune.spaces.objectives import OBJECTIVES, PARAMETERS, Objective, quality_of
from sharetune.spaces.texts import printable

WITHIN_POINTS = 1.0
"""Loss of quality, in percentage points, up to which a smaller model counts as good."""

MARKS = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
"""Words for the states of a finished trial."""


class Progress:
    """A printer to stderr: plain lines, and a status that is kept up to date.

    The status is a line on a terminal and a bar in a notebook; elsewhere each line ends with it.
    """

    def __init__(self, search: Search, console: Console | None = None) -> None:
        self.search = search
        self.console = console or stderr_console()
        self.objectives = [OBJECTIVES[name] for name in search.config.objectives]
        self.began = time.monotonic()
        self.estimate: float | None = None
        self.status: Status | None = None
        self.bar: NotebookBar | None = None

    def __enter__(self) -> "Progress":
        self.search.on_finished = self.trial_finished
        self._say_what_comes()
        if self.console.is_jupyter:
            self.bar = NotebookBar(self.standing(), *self._done())
        elif self.console.is_terminal:
            self.status = self.console.status(self.standing())
            self.status.start()
        return self

    def _say_what_comes(self) -> None:
        """Print how many trials are to come, and roughly how long they take."""
        left = max(0, self.search.config.budget.trials - self.search.ledger.started)
        self.estimate = seconds_to_come(self.search) if left else None
        rough = "" if self.estimate is None else f", in about {clock(self.estimate)}"
        self.console.print(f"{plural(left, 'trial')} to come{rough}", markup=False)

    def __exit__(self, *_: object) -> None:
        if self.status is not None:
            self.status.stop()
        if self.search.ended is not None and self.search.done:
            self.console.print(f"the search ends: {self.search.ended}", markup=False)
        if self.search.untried and self.search.done:
            names = ", ".join(self.search.untried)
            self.console.print(f"left out, as the budget is spent: {names}", markup=False)
        if self.search.cut_short is not None and self.search.done:
            left = plural(len(self.search.ledger.finals.left), "training")
            self.console.print(
                f"{left} of finalists are left out: {self.search.cut_short}", markup=False
            )

    def trial_finished(self, trial: Trial) -> None:
        """Print one line for the trial, then the status, or refresh it where it is kept."""
        line = printable(finished_line(trial, self.objectives))
        if self.status is None and self.bar is None:
            self.console.print(f"{line} | {self.standing()}", markup=False)
            return
        self.console.print(line, markup=False)
        if self.status is not None:
            self.status.update(self.standing())
        elif self.bar is not None:
            self.bar.update(self.standing(), *self._done())

    def _done(self) -> tuple[int, int]:
        """Return the trials that are done, and those of the budget."""
        return self.search.searched, self.search.config.budget.trials

    def standing(self) -> str:
        """Describe the status: trials done and running, front, best and smallest model, time."""
        search, ledger = self.search, self.search.ledger
        total = search.config.budget.trials
        parts = [f"{search.searched}/{total} trials"]
        parts.append(f"{len(search.running)} running")
        if ledger.finals.left:
            parts.append(f"{plural(len(ledger.finals.left), 'training')} of finalists to come")
        if ledger.complete:
            parts.append(f"front {len(ledger.front)}")
            parts += best_lines(ledger.complete, self.objectives)
        left = self.seconds_left()
        if left is not None:
            parts.append(f"about {clock(left)} left")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """Estimate the seconds left by this session's trials; before the first by the estimate."""
        finished = len(self.search.finished_at)
        remaining: float = 0
        if self.search.ended is None:
            remaining += self.search.config.budget.trials - self.search.ledger.started
        remaining += len(self.search.running) + self.search.ledger.retrainings_left
        if not finished or not remaining:
            return self.estimate if remaining else None
        return (self.search.finished_at[-1] - self.began) / finished * remaining


def finished_line(trial: Trial, objectives: Sequence[Objective]) -> str:
    """Write the line ``trial 7 done in 23 s: accuracy 91.2 %, parameters 18.0 M: 1..4 bank``."""
    head = f"trial {trial.number} {MARKS[trial.state]}"
    seconds = trial.seconds.get("total")
    took = f" in {seconds:.0f} s" if seconds else ""
    name = trial.anchor
    if trial.finalist is not None:
        name = f"trial {trial.finalist} again, seed {trial.candidate.recipe.seed}"
    written = str(trial.candidate.plan)
    plan = written if name is None else name if name in ANCHORS else f"{name}, {written}"
    if trial.state is not TrialState.COMPLETE:
        error = trial.error or {}
        why = trial.reason or f"{error.get('kind')}: {error.get('message')}"
        return f"{head}{took}: {plan}: {why}"
    quality = quality_of(objectives)
    numbers = {quality: _value(quality, objectives, trial), PARAMETERS: _parameters(trial)}
    texts = (f"{short_title(o)} {quantity(o, number)}" for o, number in numbers.items())
    return f"{head}{took}: {', '.join(texts)}: {plan}"


def best_lines(trials: list[Trial], objectives: Sequence[Objective]) -> list[str]:
    """Describe the best quality so far, and the smallest model within a point of the unshared."""
    quality = quality_of(objectives)
    values = [_value(quality, objectives, trial) for trial in trials]
    best = max(values) if quality.direction == "maximize" else min(values)
    lines = [f"best {short_title(quality)} {quantity(quality, best)}"]
    unshared = [t for t in trials if t.anchor == UNSHARED]
    if unshared:
        base, rated = _value(quality, objectives, unshared[0]), zip(trials, values, strict=True)
        good = [t for t, value in rated if quality.near(value, base, WITHIN_POINTS)]
        smallest = min(map(_parameters, good))
        near = margin(quality, WITHIN_POINTS)
        lines.append(f"smallest within {near} of unshared {quantity(PARAMETERS, smallest)}")
    return lines


def _value(objective: Objective, objectives: Sequence[Objective], trial: Trial) -> float:
    return float((trial.values or ())[objectives.index(objective)])


def _parameters(trial: Trial) -> float:
    return float(trial.sizes["parameters"])
