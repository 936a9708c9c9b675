"""Lets several workers train one candidate: the trial's own leads, others assist.

To whoever runs a job the team looks like the trainee that it is made of. Knows no Ray.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sharetune.search.jobs import Trainee
from sharetune.spaces.errors import CandidateFault
from sharetune.spaces.recipe import Candidate

PATIENCE_S = 10.0
TOLD = ("threads", "rungs", "accumulation")
"""What assistants are told of how the leader evaluates."""


@dataclass(frozen=True)
class Place:
    """Where an assistant meets its leader, and as which of how many."""

    size: int
    rank: int
    host: str
    port: int


Assistant = Callable[[Candidate, Place, dict[str, Any]], "Future[Exception | None]"]
"""Lets one other worker assist; at the end there is what its training raised. The future itself
raises if the worker died."""


@dataclass(frozen=True)
class Led:
    """A trainee whose training others assist in; `host` is where they find this process.

    Without one of them it could wait for ever in the middle of a step: this process then ends as
    if killed, and the search gives the job to another worker, with assistants of its own.
    """

    trainee: Trainee
    assistants: Sequence[Assistant]
    host: str

    def evaluate(
        self, candidate: Candidate, facts: dict[str, Any], **options: Any
    ) -> dict[str, Any]:
        """As the trainee's. A fault of the candidate that an assistant alone met is raised here."""
        from sharetune.trainers.training.data_parallel import lead

        team = lead(1 + len(self.assistants), self.host)
        told = {key: options[key] for key in TOLD if key in options}
        helps = [
            assist(candidate, Place(team.size, rank, self.host, team.store.port), told)
            for rank, assist in enumerate(self.assistants, 1)
        ]
        with _ending_with(helps):
            try:
                return self.trainee.evaluate(candidate, facts, team=team, **options)
            except Exception as error:
                faults = [fault for fault in _raised(helps) if isinstance(fault, CandidateFault)]
                if faults and not isinstance(error, CandidateFault):
                    raise faults[0] from error
                raise


def assist(
    trainee: Trainee,
    facts: dict[str, Any],
    candidate: Candidate,
    place: Place,
    options: dict[str, Any],
) -> Exception | None:
    """What an assistant does; returns what its training raised."""
    from sharetune.trainers.training.data_parallel import follow

    try:
        team = follow(place.size, place.rank, place.host, place.port)
        trainee.assist(candidate, facts, team=team, **options)
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
    """Ends this process if what is done within goes on after an assistant failed."""
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
