"""Compare what single scores predict of plans with what was measured, untrained and trained."""

from dataclasses import dataclass

import pandas as pd
from scipy.stats import kendalltau, spearmanr

from sharetune.results.judging.front import comparable
from sharetune.results.reading.study import StudyRecord

PREDICTED, MEASURED = "predicted_distance", "distance"
"""Columns: the sum of a plan's single scores, and its distance as measured untrained."""

LEAST = 5
"""Plans below which a rank correlation says nothing."""


@dataclass(frozen=True)
class Agreement:
    """Rank correlations of two columns over `plans` trials: Spearman's rho and Kendall's tau.

    Both are 1 where the first column orders trials as the second does. Quality that is better the
    larger it is counts turned round, for a smaller distance is better.
    """

    first: str
    second: str
    plans: int
    spearman: float
    kendall: float

    def __str__(self) -> str:
        return (
            f"{self.first} and {self.second}: Spearman {self.spearman:.2f}, Kendall "
            f"{self.kendall:.2f} over {self.plans} plans"
        )


def predicted_plans(study: StudyRecord) -> pd.DataFrame:
    """Return the trained trials whose plan was measured untrained, the unshared model left out."""
    rows = comparable(study.frame, [study.quality])
    if MEASURED not in rows:
        return rows.iloc[:0]
    known = pd.to_numeric(rows[MEASURED], errors="coerce") > 0
    return rows[known & rows["same_as"].isna()]


def agreements(study: StudyRecord) -> list[Agreement]:
    """Return how well predictions and untrained measurements order the plans, where known."""
    rows, quality = predicted_plans(study), study.quality
    columns = {
        "predicted distance": rows.get(PREDICTED),
        "measured distance": rows.get(MEASURED),
        f"trained {quality.title}": quality.sign * rows[quality.name],
    }
    known = {name: pd.to_numeric(column) for name, column in columns.items() if column is not None}
    names = list(known)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    found = [_agreement(a, known[a], b, known[b]) for a, b in pairs]
    return [one for one in found if one is not None]


def _agreement(first: str, a: pd.Series, second: str, b: pd.Series) -> Agreement | None:
    both = a.notna() & b.notna()
    if both.sum() < LEAST or a[both].nunique() < 2 or b[both].nunique() < 2:
        return None
    rho, tau = spearmanr(a[both], b[both]).statistic, kendalltau(a[both], b[both]).statistic
    return Agreement(first, second, int(both.sum()), float(rho), float(tau))
