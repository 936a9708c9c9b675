"""Which trials of a study are meant by the words of the report."""

from typing import Any

import pandas as pd

from sharetune.results.judging.front import UNSHARED, comparable
from sharetune.results.reading.study import records


def unshared_trial(frame: pd.DataFrame) -> dict[str, Any] | None:
    """The first complete unshared anchor, or None."""
    rows = comparable(frame)
    anchors = records(rows[rows["anchor"] == UNSHARED])
    return anchors[0] if anchors else None
