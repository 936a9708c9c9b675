"""Search plans for a model that is trained from scratch, with ShareTune's own search.

One search serves all sizes. It trains on four fifths of the training data, selects on the rest,
and never sees the test split. Its front and anchors are trained on further seeds, by whose mean a
size's plan is chosen; no seed of the search is one of those that are reported.
"""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.matrix.workload import Workload
from sharetune.results.reading.stored_plans import stored_plan
from sharetune.results.reading.study import read_study
from sharetune.search.config import StudyConfig
from sharetune.search.run import run
from sharetune.search.sections import Finalists
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.recipe import LENGTHS

SEED = 1000
"""The search's seed, of its trainings and of its sampler."""

HELD_OUT = 0.2
"""Fraction of the training data that the search selects on."""

FURTHER = Finalists(seeds=2, most=12)
"""Trainings of the front on further seeds, if the study names none: one alone is partly luck."""


@dataclass(frozen=True)
class Search:
    """The plans that a search found, with what they reached on its own split, and its cost."""

    qualities: dict[SharingPlan, float]
    pflop: float

    @classmethod
    def of(cls, workload: Workload, times: float = 1.0) -> "Search":
        """Run the workload's search, or go on with it, to the trials that its file allows.

        Its trainings are `times` as long as the workload's.
        """
        config = searched(workload, times)
        folder = workload.folder / ("search" if times == 1 else f"search-x{times:g}")
        study = folder / "study.db"
        run(config, out=folder, resume=study.exists())
        record = read_study(folder)
        rows = record.frame[record.frame["state"] == "COMPLETE"]
        plans = [_plan(candidate) for candidate in rows["candidate"]]
        again = rows[rows["finalist"].notna()]
        found: dict[SharingPlan, float] = {}
        for number, runs in again.groupby("finalist"):
            searched_first = rows.loc[rows["number"] == number]
            values = [*searched_first[record.quality.name], *runs[record.quality.name]]
            found[_plan(searched_first["candidate"].iloc[0])] = fmean(values)
        return cls(found, sum(workload.pflop(plan, times) for plan in plans))

    def best(self, workload: Workload, part: float) -> SharingPlan | None:
        """Return the best plan that stores at most `part` (0..1) of the stacks."""
        fitting = {
            plan: workload.quality.sign * value
            for plan, value in self.qualities.items()
            if workload.fits(plan, part)
        }
        return min(fitting, key=lambda plan: fitting[plan], default=None)


def _plan(candidate: dict[str, Any]) -> SharingPlan:
    plan = stored_plan(candidate)
    assert plan is not None, "this version has just written it"
    return plan


def searched(workload: Workload, times: float) -> StudyConfig:
    """Return the workload's study as its search runs it: in this process, and no weights kept."""
    config = workload.config
    rest = {key: value for key, value in config.space.recipe.items() if key not in LENGTHS}
    recipe = {**rest, "steps": workload.steps(times), "seed": SEED}
    latency = config.latency.model_copy(update={"rounds": 0})
    task = config.task if "validation" in config.task else {**config.task, "validation": HELD_OUT}
    settings = {
        "task": task,
        "seed": SEED,
        "executor": "local",
        "keep": "none",
        "finalists": config.finalists or FURTHER,
    }
    space = config.space.model_copy(update={"recipe": recipe})
    changed = config.model_copy(update={**settings, "latency": latency, "space": space})
    changed._folder = config.folder
    return changed
