"""Latency of a candidate before it is trained, for a study that limits it.

It depends on the plan, the compression and the length of the inputs alone, so each architecture is
measured once a study, untrained, by this process. Numbers that hold need a quiet device, so the
driver measures only while none of its workers is busy.
"""

import hashlib
import json
from typing import Any

from sharetune.results.reading import attributes as record
from sharetune.search.config import StudyConfig
from sharetune.search.jobs import Trainee
from sharetune.search.study.writer import Store
from sharetune.spaces.recipe import Candidate


class Timing:
    """The measured architectures of a study."""

    def __init__(
        self, config: StudyConfig, store: Store, trainee: Trainee, facts: dict[str, Any]
    ) -> None:
        self.config, self.store, self.trainee = config, store, trainee
        self._study_facts = facts
        noted = store.attributes if self.is_on else {}
        self._known = {
            key: found for key, found in noted.items() if key.startswith(record.ARCHITECTURE)
        }

    @property
    def is_on(self) -> bool:
        """Whether candidates are to be measured before they are trained."""
        return self.config.budget.max_latency_ms is not None

    def needs(self, candidate: Candidate) -> bool:
        """Whether the candidate's architecture is yet to be measured."""
        return self.is_on and self.known(candidate) is None

    def known(self, candidate: Candidate) -> dict[str, Any] | None:
        """What was measured of the candidate's architecture, as `Trainee.latency` gives it."""
        return self._known.get(_key(candidate))

    def measure(self, candidate: Candidate) -> dict[str, Any]:
        """Measures the candidate's architecture; call it while no worker is busy."""
        found = measured(self.config, self.trainee, candidate, candidate, self._study_facts)
        self._known[_key(candidate)] = found
        self.store.note(_key(candidate), found)
        return found

    def facts(self, candidate: Candidate) -> dict[str, float]:
        """The latency as stored, by its name, if it was measured."""
        found = self.known(candidate)
        return {} if found is None else {"latency_ms": found["forms"]["stored"]["median_ms"]}

    def refusal(self, candidate: Candidate) -> str | None:
        """Why a measured candidate is over the limit, or None."""
        limit, found = self.config.budget.max_latency_ms, self.facts(candidate)
        if limit is None or found["latency_ms"] <= limit:
            return None
        return f"over budget: {found['latency_ms']:.3g} ms of latency, at most {limit:g} allowed"


def measured(
    config: StudyConfig,
    trainee: Trainee,
    model: Any,
    candidate: Candidate,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Latency of a saved or an untrained `model` of `candidate` by the study's protocol."""
    return trainee.latency(
        model,
        facts,
        max_length=candidate.recipe.max_length,
        threads=config.resources.cpu,
        **config.latency.model_dump(),
    )


def _key(candidate: Candidate) -> str:
    written = candidate.written()
    parts = written["plan"], written["compression"], candidate.recipe.max_length
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return f"{record.ARCHITECTURE}{digest}"
