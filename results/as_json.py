"""Write studies as one JSON document for scripts: table, front, choices, finalists and warnings.

docs/report.md lists the keys. A key keeps its meaning as long as the version stays.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd

from sharetune.results.judging.caveats import caveats
from sharetune.results.judging.choices import choices
from sharetune.results.judging.examples import example_interval
from sharetune.results.judging.finals import final_study
from sharetune.results.judging.front import hypervolume, pareto_front
from sharetune.results.judging.rows import Final, Row, rows_of
from sharetune.results.judging.seeds import Spread, spreads
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.page.candidate_pages import delivery
from sharetune.results.reading.privacy import published
from sharetune.results.reading.study import StudyRecord, one_run, read_study
from sharetune.spaces.objectives import PARAMETERS, Objective

VERSION = 1
"""Version of the document; it rises when a key changes its meaning or is removed."""


def studies_as_json(runs: Sequence[Path | str], *, private: bool = False) -> str:
    """Write the studies of run folders as one JSON document.

    Numbers are finite or null, times ISO 8601, fractions 0..1. Hosts and folders of absolute paths
    are named only if `private`.

    Raises:
        RunError: if one of `runs` holds no study, or one that cannot be read.
    """
    with one_run(*runs):
        studies = [read_study(run) for run in runs]
        shown = studies if private else [published(study) for study in studies]
        written = {"version": VERSION, "studies": [_study(study) for study in shown]}
        return json.dumps(_plain(written), allow_nan=False, indent=1)


def _study(study: StudyRecord) -> dict[str, Any]:
    final = final_study(study)
    rows = {row.number: row for row in rows_of(final.frame)}
    over_seeds = spreads(study.frame, study.quality)
    return {
        "name": study.name,
        "run": study.folder,
        "model": study.model,
        "objectives": [_objective(objective) for objective in study.objectives],
        "quality": study.quality.name,
        "reference": study.reference,
        "hypervolume": _hypervolume(study),
        "examples": study.rows,
        "circumstances": study.circumstances,
        "trials": study.frame.to_dict("records"),
        "front": pareto_front(final.frame, final.objectives)["number"].tolist(),
        "choices": [
            {"rule": choice.rule, **_judged(final, rows[choice.number], over_seeds)}
            | _export(study, choice.number)
            for choice in choices(study)
        ],
        "finalists": [
            _judged(final, row, over_seeds) | _final(row.final)
            for row in rows.values()
            if row.final
        ],
        "warnings": caveats(study),
    }


def _objective(objective: Objective) -> dict[str, Any]:
    return {key: getattr(objective, key) for key in ("name", "title", "unit", "direction")}


def _hypervolume(study: StudyRecord) -> float | None:
    if not study.has_reference:
        return None
    return hypervolume(study.frame, study.objectives, study.reference)


def _final(final: Final) -> dict[str, Any]:
    standing = final.standing
    return {
        "standing": standing.word,
        "beaten_by": standing.by,
        "seeds": final.seeds,
        "lost_seeds": final.lost,
    }


def _judged(study: StudyRecord, trial: Row, over_seeds: Mapping[int, Spread]) -> dict[str, Any]:
    """A trial's numbers, those of a finalist over its seeds, with the interval of its quality."""
    unshared = unshared_trial(study.frame)
    size = trial.value(PARAMETERS)
    return {
        "number": trial.number,
        "anchor": trial.anchor or None,
        "plan": trial.plan or None,
        **{o.name: trial.value(o) for o in (study.quality, *study.objectives, PARAMETERS)},
        "size_ratio": size / unshared.value(PARAMETERS) if unshared else None,
        "latency_ms": trial.value("latency_ms"),
        "latency_ratio": trial.value("latency_ratio"),
        "interval": _interval(study.quality, trial, over_seeds.get(trial.number)),
    }


def _interval(quality: Objective, trial: Row, spread: Spread | None) -> dict[str, Any] | None:
    """The 95 % interval of a trial's quality and what it is over; None where it is not known."""
    if spread is not None:
        seeds = len(spread.numbers)
        return {"low": spread.low, "high": spread.high, "over": "seeds", "count": seeds}
    found = example_interval(trial, quality)
    return None if found is None else asdict(found)


def _export(study: StudyRecord, number: int) -> dict[str, Any]:
    way = delivery(study, number)
    return {"export": way.export or None, "why_not": way.why_not or None}


def _plain(value: object) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return float(value) if isfinite(value) else None
    return value.isoformat() if isinstance(value, datetime) else value
