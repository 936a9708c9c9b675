"""Other packages' multi-objective multi-fidelity searches on the same table and clock.

    python -m venv peers && peers/bin/pip install syne-tune==0.16.0 pandas moocore pydantic pyyaml
    PYTHONPATH=. peers/bin/python benchmarks/search/peers.py syne-moasha [--seeds 30] [--out FILE]
    ... pip install neural-pipeline-search==0.17.0 ...; peers.py neps-moasha neps-mohb

Each is driven through its own ask-and-tell interface, in an environment of its own. Rungs are
those of the table: 4, 8, 16 and 32 steps, a factor of two. Seconds that were paid for a candidate
are never paid again: a promoted training goes on where it was, and a repeat is free.

``syne-moasha`` is the scheduler as released, whose default priority hands the sorted places of
the trials on as if they were their ranks, so that a trial is stopped whatever it is worth.
``syne-moasha, ranked`` is given the ranks of the same order instead.
"""

import argparse
import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import moocore
import numpy as np
from lookup import (
    FORMS,
    LEARNING_RATES,
    PARTS,
    SHAPES,
    SPACE,
    STEPS,
    Account,
    Fixed,
    Table,
    Trained,
    run_missing,
)

from sharetune.search.early_stopping import epsilon_net, promotion_place
from sharetune.spaces.errors import PlanError

HERE = Path(__file__).parent
MILESTONES = (4, 8, 16, 32)
FORGOTTEN_EVERY = 16
COMPARED = 100
"""Decisions of each replay of MOASHA whose priorities are compared with the package's own."""
AXES: dict[str, int] = {
    "count": 2,
    "parts": len(PARTS),
    "form": len(FORMS),
    "learning_rate": len(LEARNING_RATES),
}


@dataclass
class Bill:
    """Pays each rung of each training once."""

    account: Account
    paid: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    def run(self, trained: Trained, rung: int) -> float:
        """Seconds that training on to `rung` takes now."""
        owed = max(0.0, trained.seconds[rung] - self.paid[id(trained)])
        self.paid[id(trained)] = max(self.paid[id(trained)], trained.seconds[rung])
        self.account.pay(owed, whole=rung == len(MILESTONES) - 1)
        return owed


def losses(trained: Trained, rung: int) -> list[float]:
    """Objectives at a rung, less being better."""
    return [-trained.accuracy[rung], trained.exact["parameters"], trained.exact["flops"]]


def trained_by(table: Table, config: dict[str, Any]) -> Trained:
    """The training of a package's configuration. Raises :class:`PlanError` if there is none."""
    answers = {name: int(config[name]) for name in AXES}
    answers |= {name: float(config[name]) for name in ("start", "length")}
    return table.of(SPACE.suggest(Fixed(answers), SHAPES))


def syne_moasha(table: Table, seed: int, workers: int, *, ranked: bool = False) -> Account:
    """Syne Tune's MOASHA with its default priority: non-dominated sorting with an epsilon net."""
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice, uniform
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

    np.random.seed(seed)  # the package draws from the global generator
    space = {name: choice(list(range(count))) for name, count in AXES.items()}
    space |= {"start": uniform(0, 0.999999), "length": uniform(0, 0.999999)}
    names = ["error", "parameters", "flops"]
    scheduler = MOASHA(
        space,
        names,
        time_attr="step",
        max_t=32,
        grace_period=4,
        reduction_factor=2,
        multiobjective_priority=priority(ranked=ranked),
    )
    account = Account(table)
    bill, numbers = Bill(account), itertools.count()
    events: list[tuple[float, int, Any, Trained, int]] = []
    now = 0.0
    while not account.done:
        while len(events) < workers:
            account.asked += 1
            trial = Trial(next(numbers), scheduler.suggest().config, None)
            try:
                trained = trained_by(table, trial.config)
            except PlanError:
                continue
            scheduler.on_trial_add(trial)
            heapq.heappush(events, (now + bill.run(trained, 0), trial.trial_id, trial, trained, 0))
        now, _, trial, trained, rung = heapq.heappop(events)
        result = dict(zip(names, losses(trained, rung), strict=True)) | {"step": MILESTONES[rung]}
        if rung == len(MILESTONES) - 1:
            scheduler.on_trial_complete(trial, result)
            account.earn(trained)
        elif scheduler.on_trial_result(trial, result) == "CONTINUE":
            later = now + bill.run(trained, rung + 1)
            heapq.heappush(events, (later, trial.trial_id, trial, trained, rung + 1))
        else:
            scheduler.on_trial_remove(trial)
    return account


def priority(*, ranked: bool) -> Any:
    """The scheduler's own priority, computed faster, or with `ranked` what it was meant to be.

    The package sorts by loops over every pair in Python, 0.1 s a decision at 300 trials. Of the
    result the scheduler reads how many of the priorities are below the last.
    """
    from syne_tune.optimizer.schedulers.multiobjective import multiobjective_priority as package

    class Fast(package.NonDominatedPriority):
        compared = 0

        def priority_unsafe(self, objectives: np.ndarray) -> np.ndarray:
            if ranked:
                return with_last(len(objectives), promotion_place(objectives, -1))
            place = last_as_released(objectives)
            if self.compared < COMPARED:
                self.compared += 1
                assert place == super().priority_unsafe(objectives)[-1]
            return with_last(len(objectives), place)

    return Fast()


def with_last(count: int, priority: int) -> np.ndarray:
    """``0..count-1`` in an order that ends with `priority`: the scheduler reads no other."""
    return np.append(np.delete(np.arange(count), priority), priority)


def last_as_released(points: np.ndarray) -> int:
    """The last of what Syne Tune 0.16's ``nondominated_sort`` gives for `points` (n, objectives).

    Fronts follow one another, each sorted by the turns of its epsilon net as if they were places.
    """
    fronts = moocore.pareto_rank(points)
    members = np.flatnonzero(fronts == fronts.max())
    return int(members[epsilon_net(points[members])][-1])


def neps_by(name: str) -> Callable[[Table, int, int], Account]:
    """One of NePS's optimisers through its ``AskAndTell``."""

    def search(table: Table, seed: int, workers: int) -> Account:
        import random

        import neps
        import torch
        from neps.optimizers import algorithms
        from neps.optimizers.ask_and_tell import AskAndTell

        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        space = neps.SearchSpace(
            {name: neps.HPOCategorical(list(range(count))) for name, count in AXES.items()}
            | {name: neps.HPOFloat(0.0, 0.999999) for name in ("start", "length")}
            | {"steps": neps.HPOInteger(4, STEPS, is_fidelity=True)}
        )
        optimizer = AskAndTell(getattr(algorithms, name)(space, eta=2))
        account = Account(table)
        bill, order = Bill(account), itertools.count()
        events: list[tuple[float, int, Any, Trained, int]] = []
        now = 0.0
        while not account.done:
            while len(events) < workers:
                try:
                    trial = optimizer.ask()
                except ValueError:  # raised where all of a rung's trials are pending: ask later
                    break
                account.asked += 1
                if name == "mo_hyperband" and account.asked % FORGOTTEN_EVERY == 0:
                    forget_first_cycle(optimizer)
                steps = trial.config["steps"]
                rung = MILESTONES.index(min(MILESTONES, key=lambda m: abs(m - steps)))
                try:
                    trained = trained_by(table, trial.config)
                except PlanError:
                    worst = [0.0, *table.reference[1:]]
                    optimizer.tell(trial, {"objective_to_minimize": worst})
                    continue
                heapq.heappush(
                    events, (now + bill.run(trained, rung), next(order), trial, trained, rung)
                )
            now, _, trial, trained, rung = heapq.heappop(events)
            optimizer.tell(trial, {"objective_to_minimize": losses(trained, rung)})
            if rung == len(MILESTONES) - 1:
                account.earn(trained)
        return account

    return search


def forget_first_cycle(optimizer: Any) -> None:
    """Takes the oldest cycle of brackets out of NePS's Hyperband once all of it is over.

    It has no say any more in what is drawn or promoted, but is built anew from a table at every
    ask.
    """
    from neps.optimizers.bracket_optimizer import trials_to_table

    cycles = optimizer.optimizer.create_brackets(trials_to_table(optimizer.trials))
    rungs = [rung for bracket in cycles[0].sh_brackets for rung in bracket.rungs]
    pending = any(rung.has_pending() for rung in rungs)
    if len(cycles) < 3 or pending or cycles[0].next() != "done":
        return
    over = {number for rung in rungs for number in rung.config_ids}
    for key in [key for key in optimizer.trials if int(key.split("_")[0]) in over]:
        del optimizer.trials[key]


METHODS: dict[str, Callable[[Table, int, int], Account]] = {
    "syne-moasha": syne_moasha,
    "syne-moasha, ranked": partial(syne_moasha, ranked=True),
    "neps-moasha": neps_by("moasha"),
    "neps-mohb": neps_by("mo_hyperband"),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=HERE / "peers.jsonl")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    chosen = Table(options.table) if options.table else Table()
    searches = {method: METHODS[method] for method in options.methods}
    run_missing(searches, range(options.seeds), options.workers, options.out, chosen)
