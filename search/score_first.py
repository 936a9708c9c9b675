"""Score the edits of a pretrained model before its search trains anything, within a time limit."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from sharetune.results.formatting import plural
from sharetune.search.config import StudyConfig
from sharetune.search.edit_scoring import (
    Allowance,
    ScoringRun,
    opened,
    score_all,
    wanted_edits,
)
from sharetune.search.progress_bars import stderr_console
from sharetune.spaces.errors import ConfigError, RunError, SharetuneError
from sharetune.spaces.evaluator import Evaluator, PlanScore
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.run_folder import RunFolder

SHARE = 0.2
"""Part of the cost of a budget's trainings, in examples that pass through the model, that scoring
takes at most; and of its hours, where it has any."""

FORWARDS = 3
"""Forward passes that a training step costs: one forward and one backward."""


@dataclass(frozen=True)
class Scored:
    """How a search's scoring ended: `edits` scored of all that were `wanted`, in `seconds`.

    A training costs as much as `scores_a_training` scores. Where nothing was scored, `note` says
    why.
    """

    edits: int = 0
    wanted: int = 0
    seconds: float = 0.0
    scores_a_training: float | None = None
    note: str | None = None

    def written(self) -> dict[str, Any]:
        """Return the study attribute."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        if self.note is not None:
            return f"no edits are scored: {self.note}"
        missing = "" if self.edits == self.wanted else f" of {self.wanted}"
        return f"{plural(self.edits, 'edit')}{missing} scored in {self.seconds:.0f} s"


def score_first(config: StudyConfig, run: RunFolder, evaluator: Evaluator) -> Scored | None:
    """Score the study's edits into its run folder, on all workers; None if it is off.

    Scores that the folder has are kept, so that a killed search goes on where it was. A model or
    data without scores are a note, printed to stderr; :class:`RunError` is raised for scores of
    another study.
    """
    if config.scores is None:
        return None
    note = _why_not(config, evaluator)
    found = Scored(note=note) if note is not None else _tried(config, run, evaluator)
    stderr_console().print(str(found), markup=False)
    return found


def _why_not(config: StudyConfig, evaluator: Evaluator) -> str | None:
    if not evaluator.pretrained:
        return "the model is trained from scratch, so that no edit keeps more than another"
    given = len(config.anchors) + len(config.plans)
    if config.budget.trials <= given:
        return f"anchors and plans use up all {config.budget.trials} trials"
    return None


def _tried(config: StudyConfig, run: RunFolder, evaluator: Evaluator) -> Scored:
    try:
        return _scored(config, ScoringRun(config, run, evaluator))
    except RunError:
        raise
    except SharetuneError as error:
        return Scored(note=error.message)


def _scored(config: StudyConfig, scoring: ScoringRun) -> Scored:
    start = time.monotonic()
    unshared = scoring.unshared()
    edits = wanted_edits(scoring, unshared)
    if not any(not wanted.outside for wanted in edits.values()):
        raise ConfigError(
            "no edit that the space allows makes the model smaller",
            "widen space.plan; without it every kind of edit is tried",
        )
    stored = opened(scoring, unshared)
    recipe = config.space.reference_recipe()
    steps = scoring.evaluator.steps(recipe)

    def a_training(score: PlanScore) -> float | None:
        return scores_a_training(score, steps * recipe.batch_size)

    def allowed(score: PlanScore) -> Allowance:
        if config.scores is not None and config.scores.seconds is not None:
            return Allowance(seconds=config.scores.seconds)
        hours, scores = config.budget.wall_hours, a_training(score)
        return Allowance(
            math.inf if scores is None else math.ceil(SHARE * config.budget.trials * scores),
            math.inf if hours is None else SHARE * 3600 * hours,
        )

    score_all(scoring, stored, edits, allowed)
    found = scoring.file.read()
    known = sum(map(found.is_known, edits))
    seconds = round(time.monotonic() - start, 1)
    return Scored(known, len(edits), seconds, a_training(found.plans[SharingPlan()]))


def scores_a_training(score: PlanScore, trained: int) -> float | None:
    """Return how many scores cost as much as a training that reads `trained` examples.

    An example counts each time that it is read. None where the score does not say how many
    examples it took.
    """
    return FORWARDS * trained / score.examples if score.examples else None
