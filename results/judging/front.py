"""Compute the Pareto front of a study's trials, and its hypervolume."""

from collections.abc import Iterable, Mapping, Sequence

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sharetune.results.judging.rows import FINAL, Row, rows_of
from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.objectives import OBJECTIVES, PARAMETERS, Objective

Points = NDArray[np.float64]
"""Objectives of some trials, (trials, objectives)."""


def pareto_front(frame: pd.DataFrame, objectives: Sequence[Objective]) -> pd.DataFrame:
    """Return the rows that no other row dominates, sorted by objective, the best first.

    1. Only COMPLETE trials count; those answered from memory and those trained again repeat one
       and are left out.
    2. A row with a NaN or infinite objective is left out.
    3. Rows with exactly equal objectives are all kept: they are different plans to choose from.
    """
    rows = comparable(frame, objectives)
    if rows.empty:
        return rows
    maximise = [objective.direction == "maximize" for objective in objectives]
    keep = moocore.is_nondominated(_points(rows, objectives), maximise=maximise, keep_weakly=True)
    names = [objective.name for objective in objectives]
    ascending = [objective.direction == "minimize" for objective in objectives]
    front: pd.DataFrame = rows[keep]
    return front.sort_values([*names, "number"], ascending=[*ascending, True])


def comparable(frame: pd.DataFrame, objectives: Iterable[Objective] = ()) -> pd.DataFrame:
    """Return the COMPLETE trials that the search trained, with finite values of `objectives`.

    Of a table with final numbers (`finals.py`) only finalists are returned.
    """
    first = frame["same_as"].isna() & frame["finalist"].isna()
    rows = frame.loc[(frame["state"] == "COMPLETE") & first]
    if FINAL in frame:
        rows = rows[rows[FINAL].notna()]
    finite = np.isfinite(_points(rows, list(objectives)))
    return rows.loc[np.all(finite, axis=1)]


def hypervolume(
    frame: pd.DataFrame, objectives: Sequence[Objective], reference: Mapping[str, float]
) -> float:
    """Return the share (0..1) of the box from `reference` to the ideal that the front covers.

    The ideal is each objective's own, so studies with the same reference can be compared. A trial
    that is not better than the reference in every objective adds nothing.
    """
    return _covered(_losses(comparable(frame, objectives), objectives, reference))


def hypervolume_over_trials(
    frame: pd.DataFrame, objectives: Sequence[Objective], reference: Mapping[str, float]
) -> pd.DataFrame:
    """Return the hypervolume (0..1) after each trained trial, in the order they were completed.

    Columns: ``trained`` (1, 2, ...), ``number`` and ``hypervolume``.
    """
    rows = comparable(frame, objectives).sort_values(["completed", "number"])
    front = np.empty((0, len(objectives)))
    covered, history = 0.0, []
    for loss in _losses(rows, objectives, reference):
        if not (front <= loss).all(axis=1).any():
            front = moocore.filter_dominated(np.vstack([front, loss]))
            covered = _covered(front)
        history.append(covered)
    return pd.DataFrame(
        {
            "trained": range(1, len(rows) + 1),
            "number": rows["number"].to_numpy(),
            "hypervolume": np.array(history, dtype=float),
        }
    )


def smallest_within(
    frame: pd.DataFrame, points: float = 1.0, quality: Objective = OBJECTIVES["accuracy"]
) -> Row | None:
    """Return the trial of fewest parameters within `points` of the unshared anchor's `quality`.

    :meth:`Objective.near` says which trials are within. Of equally small ones the best is taken,
    which may be the unshared anchor itself. None where no unshared anchor is complete.
    """
    rows = comparable(frame, [quality, PARAMETERS])
    unshared = rows[rows["anchor"] == UNSHARED]
    if unshared.empty:
        return None
    near = rows[quality.near(rows[quality.name], unshared[quality.name].iloc[0], points)]
    order = [True, quality.direction == "minimize"]
    return rows_of(near.sort_values([PARAMETERS.name, quality.name], ascending=order).head(1))[0]


def _points(rows: pd.DataFrame, objectives: Sequence[Objective]) -> Points:
    points: Points = rows[[objective.name for objective in objectives]].to_numpy(dtype=float)
    return points


def _losses(
    rows: pd.DataFrame, objectives: Sequence[Objective], reference: Mapping[str, float]
) -> Points:
    """Scale the objectives, (trials, objectives), so that the ideal is 0 and the reference 1."""
    ideal = np.array([o.ideal for o in objectives])
    worst = np.array([reference[o.name] for o in objectives], dtype=float)
    losses: Points = (_points(rows, objectives) - ideal) / (worst - ideal)
    return losses.clip(min=0.0)


def _covered(losses: Points) -> float:
    if not len(losses):
        return 0.0
    return float(moocore.hypervolume(losses, ref=np.ones(losses.shape[1])))
