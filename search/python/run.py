"""A run of a study as an object: its front, its trials, and what can be done with each.

>>> run = Run("runs/bbc-news")                                         # doctest: +SKIP
>>> run.best(within=1.0).export("smaller")                             # doctest: +SKIP
"""

import os
import sys
import webbrowser
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sharetune.results.judging.finals import final_study
from sharetune.results.judging.front import pareto_front, smallest_within
from sharetune.results.judging.learning import has_standard
from sharetune.results.judging.rows import Row, rows_of
from sharetune.results.page.report import write_report
from sharetune.results.reading.location import Location
from sharetune.results.reading.stored_plans import stored_plan
from sharetune.results.reading.study import StudyRecord, read_study
from sharetune.search.python.display import run_html, run_text, trial_html, trial_text
from sharetune.spaces.errors import RunError
from sharetune.spaces.plan import SharingPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sharetune.trainers.exports.base import Exported

READ_FIRST = ("number", "state", "anchor")
"""Columns of all trials that stand before the objectives."""

READ_NEXT = ("plan", "reason", "error_message", "same_as")
"""Columns of all trials that stand after the objectives."""

SHOWN = ("number", "anchor", "plan")
"""Columns of the front that are no objectives."""


class Run(os.PathLike[str]):
    """A run folder. It is read anew each time, so a search that is going on can be looked at.

    In a notebook it shows its front as an interactive figure, and the plan of :meth:`best`. It can
    be given wherever the path of a run folder can. Methods raise :class:`RunError` where the
    folder holds no study.
    """

    def __init__(self, path: Path | str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not Location.of(self.path).exists:
            raise RunError(f"no study in {self.path}", "give the folder that a search wrote")

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def study(self) -> StudyRecord:
        """The study as it was read just now."""
        return read_study(self.path)

    @property
    def trials(self) -> pd.DataFrame:
        """All trials, one row each, as :func:`sharetune.load` gives them.

        What is read most comes first: number, state, anchor, the objectives, parameters, plan and
        the reason of a trial that is not complete. The other columns follow by name.
        """
        study = self.study
        names = [*READ_FIRST, *(o.name for o in study.objectives), "parameters", *READ_NEXT]
        first = list(dict.fromkeys(names))
        return study.frame[[*first, *sorted(set(study.frame.columns) - set(first))]]

    @property
    def front(self) -> pd.DataFrame:
        """The trials that no other beats in every objective, the best first.

        Columns: ``number``, ``anchor``, ``plan``, the objectives, and ``parameters``.
        """
        study = final_study(self.study)
        rows = pareto_front(study.frame, study.objectives)
        columns = [*SHOWN, *(o.name for o in study.objectives), "parameters"]
        return rows[list(dict.fromkeys(columns))].reset_index(drop=True)

    def best(self, within: float = 1.0) -> "RunTrial":
        """Return the smallest model whose quality is at most `within` points below the unshared.

        A point is 0.01 of an accuracy, and 1 % of a number without points. Raises
        :class:`RunError` where the unshared model was not measured, or has learned nothing.
        """
        study = final_study(self.study)
        found = smallest_within(study.frame, within, study.quality)
        if found is not None and not has_standard(study):
            raise RunError(
                f"the unshared model of {self.path} has learned nothing, to compare others with",
                "train with more steps, or choose one of run.front: run.trial(number)",
            )
        if found is None:
            raise RunError(
                f"no unshared model is among the trials of {self.path}, to compare others with",
                "choose one of run.front: run.trial(number)",
            )
        return RunTrial(self, found.number)

    def trial(self, number: int) -> "RunTrial":
        """Return one trial by its number. Raises :class:`RunError` if there is none."""
        known = self.trials["number"]
        if number not in set(known):
            raise RunError(f"no trial {number} in {self.path}", f"it has {len(known)} trials")
        return RunTrial(self, int(number))

    @property
    def plan(self) -> SharingPlan:
        """The plan of :meth:`best`."""
        return self.best().plan

    def load(self, trial: "int | RunTrial") -> "PreTrainedModel":
        """Load the trained model of a trial, in eval mode.

        Raises :class:`RunError` if its weights were not kept.
        """
        from sharetune.search.commands.export import trained_model

        return trained_model(self.study, int(trial))

    def export(
        self, trial: "int | RunTrial", out: Path | str, format: str = "shared"
    ) -> "Exported":
        """Write the model of a trial into the folder `out`, with tokenizer and model card.

        It is loaded again and compared. Raises :class:`SharetuneError` as ``sharetune export``.
        """
        from sharetune.search.commands.export import export_trial

        return export_trial(self.path, int(trial), Path(out), format)

    def report(self, *, open: bool = False) -> Path:
        """Write the report, one HTML file, print where it is, and return its path.

        With `open` it is shown in the browser.
        """
        path = write_report(self.path)
        print(f"report: {path}", file=sys.stderr)
        if open:
            webbrowser.open(path.resolve().as_uri())
        return path

    def score(self) -> None:
        """Score every edit of the study's space, untrained, as ``sharetune score`` does.

        It takes minutes for a small model; a scoring that was stopped goes on where it was.
        """
        from sharetune.search.scoring import score_study
        from sharetune.search.study_file import validate

        score_study(validate(self.study.config, str(self.path)), out=self.path)

    def solve(
        self,
        *,
        parameters: str | float | None = None,
        bytes: str | float | None = None,
        flops: str | float | None = None,
        count: int = 5,
        measure: int = 0,
    ) -> list[SharingPlan]:
        """Return the `count` best plans of a size, from the scores of edits, the best first.

        A size is a number, or a text such as ``100M`` or ``80%`` of the unshared model. With
        `measure` that many whole plans are measured and improved. Raises
        :class:`SharetuneError` where nothing is scored yet: :meth:`score` does that.
        """
        from sharetune.search.commands.solve import Solver

        sizes = {"parameters": parameters, "bytes": bytes, "flops": flops}
        texts = {name: None if size is None else f"{size}" for name, size in sizes.items()}
        found = Solver.of(self.path, texts).best(count, measure)
        return [one.solution.plan for one in found]

    def __repr__(self) -> str:
        return run_text(self.study)

    def _repr_html_(self) -> str:
        study = self.study
        try:
            chosen = self.best().number
        except RunError:
            chosen = None
        return run_html(study, chosen)


@dataclass(frozen=True)
class RunTrial:
    """One trial of a run: its numbers, its plan and its trained model."""

    run: Run
    number: int

    def __index__(self) -> int:
        return self.number

    def __int__(self) -> int:
        return self.number

    @cached_property
    def row(self) -> Row:
        """The trial's row of the table; a finalist has its final numbers."""
        study = final_study(self.run.study)
        return rows_of(study.frame[study.frame["number"] == self.number])[0]

    @property
    def numbers(self) -> dict[str, float]:
        """The objectives and the parameters, by name."""
        names = [*(o.name for o in self.run.study.objectives), "parameters"]
        return {name: self.row.value(name) for name in dict.fromkeys(names)}

    @property
    def plan(self) -> SharingPlan:
        """The sharing plan. Raises :class:`RunError` for one this version cannot read."""
        found = stored_plan(self.row.candidate)
        if found is None:
            raise RunError(
                f"the plan of trial {self.number} cannot be read",
                "it was written by another version",
            )
        return found

    def load(self) -> "PreTrainedModel":
        """Load the trained model, in eval mode; see :meth:`Run.load`."""
        return self.run.load(self)

    def export(self, out: Path | str, format: str = "shared") -> "Exported":
        """Write the model into the folder `out`; see :meth:`Run.export`."""
        return self.run.export(self, out, format)

    def __repr__(self) -> str:
        return trial_text(self.run.study, self.row)

    def _repr_html_(self) -> str:
        return trial_html(self.run.study, self.row)
