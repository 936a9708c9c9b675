"""Tabulate the values that a study searched, and their importance for each objective.

The values are read from the candidates, not from the sampler's parameters: those exist only where
a choice needs them, and a place in 0..1 says less than the first and the last layer.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from sharetune.results.judging.front import comparable
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.reading.stored_plans import layers_of, sharing_groups, stored_plan
from sharetune.spaces.objectives import Objective
from sharetune.spaces.parts import write_parts
from sharetune.spaces.plan import SharingPlan

LEAST_TRIALS = 20
"""Drawn trials below which no importance is given: too few to attribute variance."""

MOST_TRIALS = 600
"""Most trials that fANOVA is fitted to, which keeps a large study's report quick."""

FANOVA_TREES = 24
"""Trees of fANOVA's forest: fewer than Optuna's 64, which keeps a report quick."""

FANOVA_DEPTH = 6
"""Largest depth of those trees (Optuna's: 64), for the same reason."""

ABSENT = "none"
"""Text of a value that a candidate does not have."""


def searched(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each trained trial, indexed by number; columns that vary only.

    Columns: ``effective ratio`` (0..1), ``form``, ``parts``, ``layers`` (the number that share),
    ``first layer``, ``last layer``, ``banks``, ``init``, ``units``, and the keys of recipe
    and compression.
    """
    rows = comparable(frame)
    described = [
        {"number": trial.number, **_of_plan(trial), **_of_recipe(trial)} for trial in rows_of(rows)
    ]
    if not described:
        return pd.DataFrame()
    table = pd.DataFrame(described, dtype=object).set_index("number")
    varied = [name for name in table if table[name].map(_text).nunique() > 1]
    return table[varied]


def layer_ranges(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the ``first`` and ``last`` shared layer, by trial number, of trials that share."""
    ranges = {
        trial.number: (layers[0], layers[-1])
        for trial in rows_of(comparable(frame))
        if (layers := layers_of(sharing_groups(stored_plan(trial.candidate))))
    }
    return pd.DataFrame.from_dict(ranges, orient="index", columns=["first", "last"])


def importances(
    frame: pd.DataFrame, objectives: Sequence[Objective]
) -> dict[str, dict[str, float]]:
    """Return the share (0..1) of each objective's variance that each searched value explains.

    One-way importances by fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014) over the drawn trials,
    without anchors and given plans; of more than 600 trials evenly spread ones are taken. Keyed by
    objective, then by value, the most important first; empty for fewer than 20 trials.
    """
    rows = comparable(frame, objectives)
    rows = rows[rows["anchor"].isna()]
    rows = rows.iloc[:: -(-len(rows) // MOST_TRIALS) or 1]
    if len(rows) < LEAST_TRIALS:
        return {}
    table = searched(rows)
    distributions = {str(name): _distribution(table[name]) for name in table}
    settings = [_settings(row, distributions) for row in table.to_dict("records")]
    found = {}
    for objective in objectives:
        values = rows[objective.name].tolist()
        if len(set(values)) > 1 and distributions:
            found[objective.name] = _fanova(settings, distributions, values)
    return found


def _fanova(
    settings: list[dict[str, Any]],
    distributions: dict[str, BaseDistribution],
    values: list[float],
) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trials(
        [
            create_trial(params=params, distributions=distributions, value=value)
            for params, value in zip(settings, values, strict=True)
        ]
    )
    evaluator = FanovaImportanceEvaluator(n_trees=FANOVA_TREES, max_depth=FANOVA_DEPTH, seed=0)
    shares = get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def _distribution(column: pd.Series) -> BaseDistribution:
    if is_numeric(column):
        return FloatDistribution(float(column.min()), float(column.max()))
    return CategoricalDistribution(sorted(set(column.map(_text))))


def _settings(
    row: Mapping[Hashable, Any], distributions: dict[str, BaseDistribution]
) -> dict[str, Any]:
    return {
        name: float(row[name]) if isinstance(kind, FloatDistribution) else _text(row[name])
        for name, kind in distributions.items()
    }


def is_numeric(column: pd.Series) -> bool:
    """Return whether every value of a column is a number."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and value == value
        for value in column
    )


def _text(value: object) -> str:
    return ABSENT if value is None or value != value else str(value)


def _of_plan(trial: Row) -> dict[str, Any]:
    plan = stored_plan(trial.candidate)
    groups = sharing_groups(plan)
    layers = layers_of(groups)
    return {
        "effective ratio": trial.value("effective_ratio"),
        "form": _forms(plan),
        "parts": _joined("+".join(write_parts(group.parts)) for group in groups),
        "layers": len(layers),
        "first layer": layers[0] if layers else None,
        "last layer": layers[-1] if layers else None,
        "banks": len(groups),
        "init": _joined(group.init for group in groups),
        "units": _joined(group.units for group in groups),
    }


def _forms(plan: SharingPlan | None) -> str:
    return _joined(group.form.name for group in plan.groups) if plan else ABSENT


def _joined(texts: Any) -> str:
    return " and ".join(sorted(set(texts))) or ABSENT


def _of_recipe(trial: Row) -> dict[str, Any]:
    return {
        name.removeprefix("recipe.").replace("_", " "): value
        for name, value in trial.cells.items()
        if name.startswith(("recipe.", "compression.")) and name != "recipe.seed"
    }
