"""Name the places of a run folder, so that their paths are spelled once."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run of a study.

    ::

        study.db | storage.yaml   the study, or where else it is kept
        study.yaml                the study file as given
        cache/                    prepared data, shared by all workers
        inputs/                   model and data, where they were given from Python
        scores.jsonl              scores of single edits (`planning/score_file.py`)
        trials/<number>/          see :class:`TrialFolder`
        tracking/                 what trackers log
        workers/                  signs of life of the workers, while a search runs
        report.html
    """

    path: Path

    @property
    def storage(self) -> Path:
        """The SQLite file that holds the study."""
        return self.path / "study.db"

    @property
    def pointer(self) -> Path:
        """The file that names the database of a study that is not kept in the folder."""
        return self.path / "storage.yaml"

    @property
    def study_file(self) -> Path:
        """The study file as it was given."""
        return self.path / "study.yaml"

    @property
    def cache(self) -> Path:
        """Tokenised data, teachers and first weights, made by whichever worker comes first."""
        return self.path / "cache"

    @property
    def inputs(self) -> Path:
        """The model and the data that were given from Python, as ordinary files."""
        return self.path / "inputs"

    @property
    def scores(self) -> Path:
        """Scores of single edits, one JSON line each."""
        return self.path / "scores.jsonl"

    @property
    def pulses(self) -> Path:
        """A file for each worker of the running search, which counts up in it."""
        return self.path / "workers"

    @property
    def tracking(self) -> Path:
        """Logs of trackers such as TensorBoard."""
        return self.path / "tracking"

    @property
    def report(self) -> Path:
        """The report as one HTML file."""
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        """The file that a search locks where the folder itself cannot be locked."""
        return self.path / ".lock"

    def drafts(self) -> list[Path]:
        """Return what a start that was killed left half written."""
        return list(self.path.glob("*.part*"))

    @property
    def trials(self) -> Path:
        """The folder of all trials' folders."""
        return self.path / "trials"

    def trial(self, number: int) -> "TrialFolder":
        """Return the folder of trial `number`."""
        return TrialFolder(self, number)

    def trial_numbers(self) -> set[int]:
        """Return the numbers of trials that have a folder."""
        found = self.trials.iterdir() if self.trials.is_dir() else ()
        return {int(path.name) for path in found if path.name.isdigit()}


@dataclass(frozen=True)
class TrialFolder:
    """The folder of one trial: its weights, and checkpoints while it trains."""

    run: RunFolder
    number: int

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.run.trials / str(self.number)

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the training, removed when it ends."""
        return self.path / "checkpoints"

    @property
    def overdue(self) -> Path:
        """Where every thread stood when the trial passed its time limit."""
        return self.path / "overdue.txt"

    @property
    def stuck(self) -> Path:
        """Where every thread stood when a training step passed the heartbeat's limit."""
        return self.path / "stuck.txt"
