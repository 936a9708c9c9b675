"""What a sampler drew for a trial."""

from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Draw:
    """A sampler's answer: parameters with the ranges they come from, and its own notes."""

    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)


NO_DRAW = Draw()
"""The draw of a trial that no sampler proposed, such as an anchor."""
