"""Find the unshared anchor, which all models of a study are compared with."""

from typing import Any

import pandas as pd

from sharetune.results.judging.front import comparable
from sharetune.results.reading.study import records
from sharetune.spaces.anchors import UNSHARED


def unshared_trial(frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return the first complete unshared anchor, as a row by column; None without one."""
    rows = comparable(frame)
    anchors = records(rows[rows["anchor"] == UNSHARED])
    return anchors[0] if anchors else None
