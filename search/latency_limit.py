"""Measure a candidate's latency before it is trained, for a study that limits it.

It depends on the plan, the compression and the length of the inputs alone, so each architecture is
measured once a study, untrained, by this process. Numbers that hold need a quiet device, so the
search measures only while none of its workers is busy.
"""

from pathlib import Path
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.search.config import StudyConfig
from sharetune.search.study.writer import StudyWriter
from sharetune.spaces.digest import digest
from sharetune.spaces.evaluator import Evaluator, Sizes
from sharetune.spaces.latency import LatencyRequest
from sharetune.spaces.recipe import Candidate


class LatencyLimit:
    """A latency limit in ms, and the measured latencies of a study's architectures."""

    def __init__(self, config: StudyConfig, writer: StudyWriter, evaluator: Evaluator) -> None:
        self.config, self.writer, self.evaluator = config, writer, evaluator
        noted = writer.attributes if self.is_on else {}
        self._known = {
            key: found for key, found in noted.items() if key.startswith(record.ARCHITECTURE)
        }

    @property
    def is_on(self) -> bool:
        """Whether candidates are measured before they are trained."""
        return self.config.budget.max_latency_ms is not None

    def needs(self, candidate: Candidate) -> bool:
        """Say whether the candidate's architecture has not been measured yet."""
        return self.is_on and self.known(candidate) is None

    def known(self, candidate: Candidate) -> dict[str, Any] | None:
        """Return the stored latency of the candidate's architecture, if it was measured."""
        return self._known.get(_key(candidate))

    def measure(self, candidate: Candidate) -> None:
        """Measure the candidate's architecture; call it while no worker is busy."""
        found = measured(self.config, self.evaluator, candidate, candidate)
        self._known[_key(candidate)] = found
        self.writer.note(_key(candidate), found)

    def sizes(self, candidate: Candidate) -> Sizes:
        """Return the stored latency in ms by its name, empty if it was not measured."""
        found = self.known(candidate)
        return {} if found is None else {"latency_ms": found["forms"]["stored"]["median_ms"]}

    def refusal(self, candidate: Candidate) -> str | None:
        """Say why a measured candidate is over the limit, or return None."""
        limit = self.config.budget.max_latency_ms
        if limit is None:
            return None
        latency_ms = self.sizes(candidate)["latency_ms"]
        if latency_ms <= limit:
            return None
        return f"over budget: {latency_ms:.3g} ms of latency, at most {limit:g} allowed"


def measured(
    config: StudyConfig, evaluator: Evaluator, model: Path | Candidate, candidate: Candidate
) -> dict[str, Any]:
    """Measure a saved or an untrained `model` of `candidate` by the study's protocol."""
    request = LatencyRequest(
        max_length=candidate.recipe.max_length,
        threads=config.resources.cpu,
        **config.latency.model_dump(),
    )
    return evaluator.latency(model, request).written()


def _key(candidate: Candidate) -> str:
    written = candidate.written()
    parts = written["plan"], written["compression"], candidate.recipe.max_length
    return f"{record.ARCHITECTURE}{digest(parts)}"
