"""Score untrained candidates on all Ray workers, each of which loads the model once."""

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from sharetune.search.config import StudyConfig
from sharetune.search.live import say_error
from sharetune.search.signals import stopped_when_safe
from sharetune.search.untrained import Untrained, score_untrained
from sharetune.search.workers import in_process
from sharetune.search.workers.ray_cluster import (
    capacity,
    require_run_folder,
    watched_services,
)
from sharetune.search.workers.ray_tune import WORKER_RETRIES
from sharetune.spaces.errors import RunError
from sharetune.spaces.evaluator import Evaluator, JobResources, Untried
from sharetune.spaces.run_folder import RunFolder

BRIEF_S = 30.0
"""Seconds of scoring up to which workers of one machine are not worth their start: each of them
loads libraries, model and data, and those that train do so once more (15 s on 2 cores)."""

SIGNALS_EVERY_S = 0.2
"""Seconds after which a signal is noticed while all workers are busy."""


@ray.remote
class ScoreWorker:
    """A process that keeps the unshared model and its answers, and scores plan after plan."""

    def __init__(self, evaluator: Evaluator, threads: int) -> None:
        self.evaluator, self.resources = evaluator, JobResources(threads=threads)

    def score(self, candidate: Untried) -> Untrained:
        """Return the score, or the error that says why there is none."""
        return score_untrained(self.evaluator, candidate, self.resources)


class ScorePool:
    """The workers, and which candidate each of them has; lost ones are replaced.

    A candidate whose worker died is given to another, `WORKER_RETRIES` times in all candidates.
    """

    def __init__(self, evaluator: Evaluator, candidates: Sequence[Untried], cpus: int) -> None:
        self.candidates, self.cpus = candidates, cpus
        self.evaluator = ray.put(evaluator)
        self.left = deque(range(len(candidates)))
        self.busy: dict[Any, tuple[int, Any]] = {}
        self.losses = 0

    def start(self, workers: int) -> None:
        """Start workers, and give a candidate to each."""
        for _ in range(min(workers, len(self.left))):
            self._give(self._worker())

    def finished(self) -> Iterator[tuple[int, Untrained]]:
        """Yield the scores that came within `SIGNALS_EVERY_S`."""
        ready, _ = ray.wait(list(self.busy), timeout=SIGNALS_EVERY_S)
        for task in ready:
            number, worker = self.busy.pop(task)
            try:
                found = ray.get(task)
            except RayActorError:
                self._replace(number)
                continue
            self._give(worker)
            yield number, found

    def end(self) -> None:
        """End all workers."""
        for _, worker in self.busy.values():
            ray.kill(worker)

    def _worker(self) -> Any:
        kind: Any = ScoreWorker
        return kind.options(num_cpus=self.cpus).remote(self.evaluator, self.cpus)

    def _give(self, worker: Any) -> None:
        if self.left:
            number = self.left.popleft()
            self.busy[worker.score.remote(self.candidates[number])] = number, worker
        else:
            ray.kill(worker)

    def _replace(self, number: int) -> None:
        self.losses += 1
        if self.losses > WORKER_RETRIES:
            raise RunError(
                f"{self.losses} workers died while they scored, the last one at "
                f"{self.candidates[number].plan}",
                "what is scored is kept; lower resources.workers if memory ran out, and go on",
            )
        self.left.appendleft(number)
        self._give(self._worker())


def scores(
    evaluator: Evaluator, candidates: Sequence[Untried], config: StudyConfig, run: RunFolder
) -> Generator[tuple[int, Untrained], None, None]:
    """Yield the number and the untrained score of each candidate, in the order they come.

    Where one machine's cores score for a short time only, this process does it on all of them.
    """
    require_run_folder(run.path)
    if _is_brief(config):
        cores = int(ray.cluster_resources()["CPU"])
        yield from in_process.scores(evaluator, candidates, cores)
        return
    cpus = config.resources.cpu
    pool = ScorePool(evaluator, candidates, cpus)
    with stopped_when_safe() as stop_if_asked, watched_services(say_error) as services:
        try:
            pool.start(config.resources.workers or capacity({"CPU": float(cpus)}, 1))
            while pool.busy:
                yield from pool.finished()
                services.stop_if_lost()
                stop_if_asked()
        finally:
            pool.end()


def _is_brief(config: StudyConfig) -> bool:
    seconds = math.inf if config.scores is None else config.scores.seconds or math.inf
    return seconds <= BRIEF_S and len(ray.nodes()) == 1
