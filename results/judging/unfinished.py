"""Say why a search has completed no trial."""

from collections import Counter
from typing import Any

import pandas as pd

from sharetune.results.formatting import plural
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.errors import RunError

OVER_BUDGET = "over budget"
"""Beginning of the reason of a trial that a hard limit keeps from being trained."""

LIMITS = {"parameters": ",.0f", "bytes": ",.0f", "flops": ",.0f", "latency_ms": ".3g"}
"""Format of each size that a budget may limit, by its name."""


def nothing_completed(study: StudyRecord) -> RunError | None:
    """Return the error of a search whose trials have all ended without one that is complete.

    It names the most frequent cause; where all are over the budget, the smallest. None for other
    searches, and for one without any trial.
    """
    frame = study.frame
    if frame.empty or frame["state"].isin(["COMPLETE", "RUNNING", "WAITING"]).any():
        return None
    causes = [cause_of(trial) for trial in rows_of(frame)]
    if all(cause.startswith(OVER_BUDGET) for cause in causes):
        return _all_over(frame, (study.config.get("budget") or {}))
    cause, count = Counter(causes).most_common(1)[0]
    first = frame["number"].iloc[causes.index(cause)]
    return RunError(
        f"no trial was completed: {count} of {plural(len(frame), 'trial')} ended with "
        f"{cause} (trial {first} was the first)",
        "the report shows each trial's error; mend the cause and search into another --out",
    )


def cause_of(trial: Row) -> str:
    """Say in one line why a trial was pruned or failed."""
    lines = trial.error_message.strip().splitlines()
    return trial.reason or f"{trial.error_kind}: {lines[0] if lines else ''}"


def _all_over(frame: pd.DataFrame, budget: dict[str, Any]) -> RunError:
    limits = {name: budget.get(f"max_{name}") for name in LIMITS}
    given = {name: limit for name, limit in limits.items() if limit and name in frame}
    over = {name: int((frame[name] > limit).sum()) for name, limit in given.items()}
    name = max(over, key=lambda each: over[each])
    smallest = rows_of(frame.sort_values(name))[0]
    size, limit = format(smallest.value(name), LIMITS[name]), format(given[name], LIMITS[name])
    what = name.replace("latency_ms", "ms of latency")
    return RunError(
        f"no trial was completed: all {len(frame)} candidates are over the budget; the smallest, "
        f"trial {smallest.number} ({smallest.title}), has {size} {what}, at most {limit} allowed",
        f"raise budget.max_{name}, or let the space share more",
    )
