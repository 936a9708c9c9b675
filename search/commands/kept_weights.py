"""Find the weights that a run has kept of a trial; no library that could load them is imported."""

from pathlib import Path

from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.judging.unfinished import cause_of
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.errors import RunError
from sharetune.spaces.layers import runs

STATES = {"COMPLETE": "was completed", "PRUNED": "was pruned", "FAIL": "failed"}
"""Words for the states of trials that have ended."""


def kept_weights(study: StudyRecord, number: int) -> Path:
    """Return the folder of a trial's weights, or of those of the equal trial that it repeats.

    Raises :class:`RunError` if there is no such trial, or its weights do not exist.
    """
    trials = {row.number: row for row in rows_of(study.frame)}
    if number not in trials:
        known = f"the run has trials 0 to {max(trials)}" if trials else "the run has no trials"
        raise RunError(f"no trial {number} in {study.path}", known)
    same = study.frame.set_index("number")["same_as"].loc[[number]].dropna()
    for owner in (number, *same):
        folder = study.path / "trials" / str(int(owner)) / "model"
        if folder.is_dir():
            return folder
    raise _without_weights(study.path, trials[number])


def _without_weights(run: Path, trial: Row) -> RunError:
    kept = sorted(int(folder.parent.name) for folder in run.glob("trials/*/model"))
    others = f"trials that can be exported: {runs(kept)}" if kept else "no trial has weights"
    if trial.state == "COMPLETE":
        return RunError(
            f"the weights of trial {trial.number} were not kept",
            f"{others}; `keep: all` in the study file keeps those of every trial that completes",
        )
    cause = cause_of(trial) if trial.state in STATES else "it has no weights yet"
    state = STATES.get(trial.state, "has not ended")
    return RunError(f"trial {trial.number} {state}: {cause}", others)
