"""What each search method costs until it has found the front, on the table of real trainings.

    python benchmarks/search/replay.py [--seeds 30] [--first 0] [--workers 4] [--out FILE.jsonl]
                                       [METHOD ...]
    python benchmarks/search/replay.py --summary FILE.jsonl [FILE.jsonl ...]

A virtual clock replays every search with its workers: a training takes the seconds it took, and
its rungs come when they came. Only trainings that were run to their end count for the front. A
candidate that was trained already is answered at no cost, for every method. Costs are seconds of
training on one thread, summed over workers, until the completed trainings' hypervolume is 95 % and
99 % of the whole table's; the reference point is the worst of the table in each objective. A
search that asked twice as often as there are candidates, or 200 times in a row for nothing that
was not known, is given up and counts as what it had spent. `peers.py` beside writes
lines of the same kind for other packages.
"""

import argparse
import heapq
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import pandas as pd
from lookup import (
    PACKED,
    RUNGS,
    SHAPES,
    SPACE,
    TARGETS,
    Account,
    Table,
    Trained,
    lines,
    run_missing,
)
from optuna.samplers._tpe import sampler as tpe_sampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from sharetune.results.reading import attributes as record
from sharetune.search.config import StudyConfig
from sharetune.search.outcome import Outcome, stopped
from sharetune.search.search import Search
from sharetune.search.sections import EarlyStopping
from sharetune.search.study.writer import StudyWriter
from sharetune.spaces.errors import PlanError
from sharetune.spaces.evaluator import JobResources, Measured, PlanScore, Scores
from sharetune.spaces.planning.score_file import ScoreFile, ScoresHeader
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder

HERE = Path(__file__).parent
RESAMPLED = 10000


class TableEvaluator:
    """An evaluator that answers from the table; `measured_s` adds up what distances cost."""

    stacks = SHAPES

    def __init__(self, table: Table) -> None:
        self.table = table
        self.measured_s = 0.0

    def score(self, candidate: Candidate, resources: JobResources) -> PlanScore:
        """Return the distance of the candidate's plan."""
        distance, seconds = self.table.distances[str(candidate.plan)]
        self.measured_s += seconds
        return PlanScore(distance)

    def sizes(self, candidate: Candidate) -> dict[str, float]:
        """Return exact sizes."""
        return self.table.of(candidate).exact


def ours(
    table: Table,
    seed: int,
    workers: int,
    sampler: str,
    rungs: Sequence[float],
    brackets: int = 1,
    measures: bool = False,
) -> Account:
    """A search by the project's own search, sampler and early stopping.

    If it `measures` the distances of untrained plans, it pays for them.
    """
    stopping = EarlyStopping(rungs=tuple(rungs), brackets=brackets)
    with TemporaryDirectory() as folder:
        search = _search(table, seed, sampler, stopping, RunFolder(Path(folder)), measures)
        return _replayed(search, table, workers, rungs)


def _replayed(search: Search, table: Table, workers: int, rungs: Sequence[float]) -> Account:
    account, clock = Account(table), itertools.count()
    evaluator: Any = search.evaluator
    events: list[tuple[float, int, Any, int]] = []
    now = 0.0
    while not account.done:
        while len(events) < workers and (job := search.next()) is not None:
            account.asked += 1
            account.pay(evaluator.measured_s)
            evaluator.measured_s = 0.0
            first = 0 if rungs else len(RUNGS)
            length = table.of(job.candidate).seconds[first]
            heapq.heappush(events, (now + length, next(clock), job, first))
        if not events:
            break
        now, _, job, rung = heapq.heappop(events)
        trained = table.of(job.candidate)
        before = trained.seconds[rung - 1] if rung and rungs else 0.0
        account.pay(trained.seconds[rung] - before, whole=rung == len(RUNGS))
        if rung == len(RUNGS):
            account.earn(trained)
            search.finish(job, Outcome("complete", _measured(trained, rung)))
        elif search.reached(job, rung, _metrics(trained, rung)):
            length = trained.seconds[rung + 1] - trained.seconds[rung]
            heapq.heappush(events, (now + length, next(clock), job, rung + 1))
        else:
            search.finish(job, stopped(f"stopped at rung {rung}"))
    return account


def _metrics(trained: Trained, rung: int) -> dict[str, float]:
    return {"accuracy": trained.accuracy[rung]}


def _measured(trained: Trained, rung: int) -> Measured:
    return Measured(Scores(_metrics(trained, rung)), curve=[], seconds={}, circumstances={})


def _search(
    table: Table,
    seed: int,
    sampler: str,
    stopping: EarlyStopping,
    run: RunFolder,
    measures: bool,
) -> Search:
    config = StudyConfig(
        name="replay",
        model="table",
        task={"name": "table"},
        space=SPACE,
        anchors=(),
        sampler=sampler,
        seed=seed,
        budget={"trials": len(table.trained)},
        early_stopping=stopping,
        executor="local",
        keep="none",
    )
    worst = dict(zip(config.objectives, table.reference * [-1, 1, 1], strict=True))
    attributes = {record.OBJECTIVES: list(config.objectives), record.REFERENCE: worst}
    if measures:
        training = float(np.mean([one.seconds[-1] for one in table.trained.values()]))
        score = float(np.mean([seconds for _, seconds in table.distances.values()]))
        attributes[record.SCORING] = {"edits": 1, "scores_a_training": training / score}
        ScoreFile(run.scores).begin(ScoresHeader({}, {}, {}))
    writer = StudyWriter.create_in(InMemoryStorage(), f"replay-{seed}", attributes)
    evaluator: Any = TableEvaluator(table)
    return Search(config, writer, evaluator, run)


def with_optuna(
    table: Table, seed: int, workers: int, make: Callable[[int], optuna.samplers.BaseSampler]
) -> Account:
    """A search by one of Optuna's samplers as it comes, every training run to its end."""
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make(seed))
    account, clock = Account(table), itertools.count()
    events: list[tuple[float, int, optuna.Trial, Trained]] = []
    seen: set[int] = set()
    now = 0.0
    while not account.done:
        while len(events) < workers:
            trial = study.ask()
            account.asked += 1
            try:
                trained = table.of(SPACE.suggest(trial, SHAPES))
            except PlanError:  # drops all layers, which costs nothing to know
                study.tell(trial, state=TrialState.PRUNED)
                continue
            known = id(trained) in seen
            seen.add(id(trained))
            length = 0.0 if known else trained.seconds[-1]
            heapq.heappush(events, (now + length, next(clock), trial, trained))
            account.pay(length, whole=True)
        now, _, trial, trained = heapq.heappop(events)
        account.earn(trained)
        study.tell(trial, [trained.accuracy[-1], *list(trained.exact.values())])
    return account


class SplitOnce:
    """Optuna's split of trials into good and others, once an ask instead of once a parameter.

    Independent TPE splits the same trials the same way for every parameter of a trial, which is
    half of what asking costs it.
    """

    def __init__(self) -> None:
        self._given: tuple[Any, ...] = ()
        self._split: Any = None
        self._by_optuna = tpe_sampler._split_trials

    def __call__(self, study: optuna.Study, trials: list[Any], n_below: int) -> Any:
        if (study, trials, n_below) != self._given:
            self._given = (study, trials, n_below)
            self._split = self._by_optuna(study, trials, n_below)
        return self._split


METHODS: dict[str, Callable[[Table, int, int], Account]] = {
    "random": lambda t, s, n: with_optuna(t, s, n, lambda k: optuna.samplers.RandomSampler(k)),
    "tpe": lambda t, s, n: with_optuna(t, s, n, lambda k: optuna.samplers.TPESampler(seed=k)),
    "nsga2": lambda t, s, n: with_optuna(t, s, n, lambda k: optuna.samplers.NSGAIISampler(seed=k)),
    "ours": lambda t, s, n: ours(t, s, n, "guided", RUNGS),
    "ours, distances": lambda t, s, n: ours(t, s, n, "guided", RUNGS, measures=True),
    "ours, no rungs": lambda t, s, n: ours(t, s, n, "guided", ()),
    "ours, 2 brackets": lambda t, s, n: ours(t, s, n, "guided", RUNGS, brackets=2),
    "ours, 3 brackets": lambda t, s, n: ours(t, s, n, "guided", RUNGS, brackets=3),
    "ours, tpe": lambda t, s, n: ours(t, s, n, "tpe", RUNGS),
    "ours, random": lambda t, s, n: ours(t, s, n, "random", RUNGS),
    "ours, nsga2": lambda t, s, n: ours(t, s, n, "nsga2", RUNGS),
}


def summary(paths: Sequence[Path], table: Table) -> None:
    """Seconds to each target by method, and how ours compares with the best of the others.

    A search that was given up counts as what it had spent, which is less than it would have
    needed. Intervals are 95 %, by bootstrap over seeds.
    """
    frame = pd.DataFrame(lines(paths)).drop_duplicates(["method", "seed", "workers"])
    print("| method | seeds | target | mean s | median s | not reached |")
    print("|---|---|---|---|---|---|")
    costs: dict[tuple[str, float], np.ndarray] = {}
    for (method, own), target in itertools.product(frame.groupby("method", sort=False), TARGETS):
        reached = own["reached"].map(lambda found, t=target: found.get(str(t), np.nan))
        costs[method, target] = reached.fillna(own["spent"]).to_numpy()
        cells = [_with_interval(costs[method, target], kind) for kind in (np.mean, np.median)]
        missed = int(reached.isna().sum())
        print(f"| {method} | {len(own)} | {target:.0%} | {' | '.join(cells)} | {missed} |")
    for target, kind in itertools.product(TARGETS, (np.mean, np.median)):
        others = [m for m, t in costs if t == target and not m.startswith("ours")]
        if others and ("ours", target) in costs:
            best = min(others, key=lambda m, t=target, k=kind: k(costs[m, t]))
            ratio = _ratio(costs["ours", target], costs[best, target], kind)
            print(f"{target:.0%}, {kind.__name__}: ours / {best} = {ratio}")


def _draws(costs: np.ndarray, kind: Callable[..., Any], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(kind(rng.choice(costs, (RESAMPLED, len(costs))), axis=1))


def _with_interval(costs: np.ndarray, kind: Callable[..., Any]) -> str:
    low, high = np.quantile(_draws(costs, kind), (0.025, 0.975))
    return f"{kind(costs):.1f} [{low:.1f}, {high:.1f}]"


def _ratio(ours: np.ndarray, theirs: np.ndarray, kind: Callable[..., Any]) -> str:
    low, high = np.quantile(_draws(ours, kind) / _draws(theirs, kind, seed=1), (0.025, 0.975))
    return f"{kind(ours) / kind(theirs):.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=HERE / "replay.jsonl")
    parser.add_argument("--table", type=Path, default=PACKED)
    parser.add_argument("--summary", nargs="+", type=Path)
    options = parser.parse_args()
    if options.summary:
        summary(options.summary, Table(options.table))
    else:
        chosen = options.methods or list(METHODS)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        tpe_sampler._split_trials = SplitOnce()
        searches = {method: METHODS[method] for method in chosen}
        seeds = range(options.first, options.first + options.seeds)
        run_missing(searches, seeds, options.workers, options.out, Table(options.table))
        summary([options.out], Table(options.table))
