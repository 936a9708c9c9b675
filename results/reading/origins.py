"""Say which rule chose each candidate: an anchor, the solver, the study file, the sampler ..."""

from collections.abc import Mapping
from typing import Any

from sharetune.results.reading.trial import Trial
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.registry import summary

GIVEN = {"plan-": "the study file", "solved-": "solved from scores"}
"""Rules by the start of the anchor's name that their trials have."""


def chosen_by(trial: Trial, config: Mapping[str, Any]) -> str:
    """Name the rule that chose a trial's candidate, in a study with this configuration."""
    if trial.finalist is not None:
        return f"finalist: trial {trial.finalist} again"
    if trial.rival is not None:
        return f"rival of trial {trial.rival.get('of')}: {trial.rival.get('kind')} alone"
    if trial.earlier is not None:
        return "an earlier study's front"
    if trial.anchor is None:
        return f"sampler {_sampler(config.get('sampler', 'auto'))}"
    if trial.anchor in ANCHORS:
        return f"anchor: {summary(ANCHORS[trial.anchor])}"
    starts = (rule for start, rule in GIVEN.items() if trial.anchor.startswith(start))
    return next(starts, "anchor")


def _sampler(choice: Any) -> str:
    return next(iter(choice), "") if isinstance(choice, dict) else str(choice)
