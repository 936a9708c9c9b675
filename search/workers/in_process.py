"""Run jobs one after another in this process: for tests, debugging and one device."""

from functools import partial

from sharetune.search.search import Search
from sharetune.search.workers.attempt import Report, attempt
from sharetune.spaces.evaluator import JobResources, Unheard


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
