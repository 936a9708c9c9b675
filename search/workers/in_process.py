"""Run jobs one after another in this process: for tests, debugging and one device."""

from collections.abc import Generator, Sequence
from functools import partial

from sharetune.search.search import Search
from sharetune.search.signals import stopped_when_safe
from sharetune.search.untrained import Untrained, score_untrained
from sharetune.search.workers.attempt import Report, attempt
from sharetune.spaces.evaluator import Evaluator, JobResources, Unheard, Untried


class Reporting(Unheard):
    """A listener that passes rungs on to `report`."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def rung(self, rung: int, metrics: dict[str, float]) -> bool:
        """Return whether the training goes on."""
        return self.report(rung, metrics)


def execute(search: Search) -> None:
    """Train until the search has nothing more."""
    given = search.config.resources
    resources = JobResources(threads=given.cpu, checkpoint_s=given.checkpoint_s)
    while (job := search.next()) is not None:
        listener = Reporting(partial(search.reached, job))
        search.finish(job, attempt(search.evaluator.evaluate, job, resources, listener))


def scores(
    evaluator: Evaluator, candidates: Sequence[Untried], threads: int
) -> Generator[tuple[int, Untrained], None, None]:
    """Yield the number and the untrained score of each candidate; a signal ends it in between."""
    resources = JobResources(threads=threads)
    with stopped_when_safe() as stop_if_asked:
        for number, candidate in enumerate(candidates):
            yield number, score_untrained(evaluator, candidate, resources)
            stop_if_asked()
