"""Write the text that a figure's point shows when it is pointed at: plan and numbers."""

from math import isfinite
from typing import Any

from sharetune.results.formatting import quantity, short_title
from sharetune.results.judging.finals import SEEDS, standing_of
from sharetune.results.page.figures import safe
from sharetune.results.page.trial_rows import note
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.objectives import OBJECTIVES

LONGEST_PLAN = 6
"""Groups of a plan that are shown, one a line."""

LONGEST_GROUP = 90
"""Characters after which a line is cut."""

WITHOUT_RESULT = {"PRUNED": "pruned", "FAIL": "failed"}
"""Words for the states of trials that have no result."""


def hover_text(study: StudyRecord, trial: dict[str, Any]) -> str:
    """Write a trial's lines in Plotly's subset of HTML; the reason for no result comes last."""
    number = f"trial {trial['number']}"
    names = [safe(trial[key]) for key in ("anchor", "preset") if isinstance(trial[key], str)]
    plan = trial["plan"] if isinstance(trial["plan"], str) else "no plan stored"
    also = (OBJECTIVES["parameters"], OBJECTIVES["latency_ms"])
    numbers = [
        f"{safe(short_title(objective))}: {quantity(objective, trial[objective.name])}"
        for objective in dict.fromkeys([*study.objectives, *also])
        if isfinite(trial[objective.name])
    ]
    standing = standing_of(trial)
    if standing is not None:
        numbers.append(f"mean of {trial[SEEDS]} seeds, {safe(str(standing))}")
    heading = f"<b>{', '.join([number, *names])}</b>"
    return "<br>".join([heading, *_wrapped(plan), *numbers, *_ended(trial)])


def _wrapped(plan: str) -> list[str]:
    """Write the plan's groups, one a line; of a long plan the first six."""
    groups = plan.split("; ")
    lines = [safe(_cut(group)) for group in groups[:LONGEST_PLAN]]
    more = len(groups) - LONGEST_PLAN
    return [*lines, f"and {more} more groups"] if more > 0 else lines


def _ended(trial: dict[str, Any]) -> list[str]:
    end = WITHOUT_RESULT.get(trial["state"])
    return [safe(_cut(f"{end}: {note(trial)}"))] if end else []


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_GROUP else f"{text[:LONGEST_GROUP]}…"
