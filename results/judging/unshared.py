"""Find the unshared anchor, which all models of a study are compared with."""

import pandas as pd

from sharetune.results.judging.front import comparable
from sharetune.results.judging.rows import Row, rows_of
from sharetune.spaces.anchors import UNSHARED


def unshared_trial(frame: pd.DataFrame) -> Row | None:
    """Return the first complete unshared anchor; None without one."""
    rows = comparable(frame)
    return next(iter(rows_of(rows[rows["anchor"] == UNSHARED])), None)
