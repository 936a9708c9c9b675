"""Let several workers train one candidate: the trial's own leads, others assist.

To whoever runs a job, the group looks like the evaluator that it is made of. Knows no Ray.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sharetune.spaces.errors import CandidateFault
from sharetune.spaces.evaluator import Evaluator, Job, JobResources, Listener, Measured

PATIENCE_S = 10.0
"""Seconds that an assistant may take to end after its leader has."""


@dataclass(frozen=True)
class Meeting:
    """Where an assistant meets its leader: host, port, its own rank and the group's size."""

    size: int
    rank: int
    host: str
    port: int


Assistant = Callable[[Job, JobResources, Meeting], "Future[Exception | None]"]
"""Lets one other worker assist; the future holds what its training raised, and raises itself if
the worker died."""


@dataclass(frozen=True)
class TrialGroup:
    """An evaluator whose trainings others assist in; `host` is where they find this process.

    Without one of them it could wait for ever in the middle of a step: this process then ends as
    if killed, and the search gives the job to another worker, with assistants of its own.
    """

    evaluator: Evaluator
    assistants: Sequence[Assistant]
    host: str

    def evaluate(self, job: Job, resources: JobResources, listener: Listener) -> Measured:
        """Evaluate as the evaluator does; raise a candidate's fault that an assistant alone met."""
        from sharetune.trainers.training.data_parallel import lead

        team = lead(1 + len(self.assistants), self.host)
        helps = [
            assist(job, resources, Meeting(team.size, rank, self.host, team.store.port))
            for rank, assist in enumerate(self.assistants, 1)
        ]
        with _ending_with(helps):
            try:
                return self.evaluator.evaluate(job, replace(resources, team=team), listener)
            except Exception as error:
                faults = [fault for fault in _raised(helps) if isinstance(fault, CandidateFault)]
                if faults and not isinstance(error, CandidateFault):
                    raise faults[0] from error
                raise


def assist(
    evaluator: Evaluator, job: Job, resources: JobResources, at: Meeting
) -> Exception | None:
    """Train the job as an assistant; return what its training raised."""
    from sharetune.trainers.training.data_parallel import follow

    try:
        team = follow(at.size, at.rank, at.host, at.port)
        evaluator.assist(job, replace(resources, team=team))
    except Exception as error:
        return error
    return None


def _raised(helps: "Sequence[Future[Exception | None]]") -> list[Exception | None]:
    """What the assistants' trainings raised. Ends this process if one is dead or hangs."""
    _, hanging = wait(helps, timeout=PATIENCE_S)
    if hanging or any(helping.exception() for helping in helps):
        _end_this_process()
    return [helping.result() for helping in helps]


@contextmanager
def _ending_with(helps: "Sequence[Future[Exception | None]]") -> Iterator[None]:
    """End this process if what is done inside goes on after an assistant failed."""
    over = threading.Event()

    def watch(helping: "Future[Exception | None]") -> None:
        if helping.exception() is not None or helping.result() is not None:
            threading.Thread(target=end_unless_over, daemon=True).start()

    def end_unless_over() -> None:
        if not over.wait(2 * PATIENCE_S):
            _end_this_process()

    for helping in helps:
        helping.add_done_callback(watch)
    try:
        yield
    finally:
        over.set()


def _end_this_process() -> None:
    os._exit(1)
