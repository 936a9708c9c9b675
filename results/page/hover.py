"""Write the text that a figure's point shows when it is pointed at: plan and numbers."""

from math import isfinite

from sharetune.results.formatting import quantity, short_title
from sharetune.results.judging.rows import Row
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


def hover_text(study: StudyRecord, trial: Row) -> str:
    """Write a trial's lines in Plotly's subset of HTML; the reason for no result comes last."""
    names = [safe(name) for name in (trial.anchor, trial.preset) if name]
    also = (OBJECTIVES["parameters"], OBJECTIVES["latency_ms"])
    numbers = [
        f"{safe(short_title(objective))}: {quantity(objective, trial.value(objective))}"
        for objective in dict.fromkeys([*study.objectives, *also])
        if isfinite(trial.value(objective))
    ]
    if trial.final:
        numbers.append(f"mean of {trial.final.seeds} seeds, {safe(str(trial.final.standing))}")
    heading = f"<b>{', '.join([f'trial {trial.number}', *names])}</b>"
    plan = _wrapped(trial.plan or "no plan stored")
    return "<br>".join([heading, *plan, *numbers, *_ended(trial)])


def _wrapped(plan: str) -> list[str]:
    """Write the plan's groups, one a line; of a long plan the first six."""
    groups = plan.split("; ")
    lines = [safe(_cut(group)) for group in groups[:LONGEST_PLAN]]
    more = len(groups) - LONGEST_PLAN
    return [*lines, f"and {more} more groups"] if more > 0 else lines


def _ended(trial: Row) -> list[str]:
    end = WITHOUT_RESULT.get(trial.state)
    return [safe(_cut(f"{end}: {note(trial)}"))] if end else []


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_GROUP else f"{text[:LONGEST_GROUP]}…"
