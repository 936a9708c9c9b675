"""Keep, of all that trials leave on disk, what the study asks for."""

import shutil
from collections.abc import Collection, Sequence

from sharetune.results.reading.trial import Trial
from sharetune.search.ledger import Ledger
from sharetune.spaces.evaluator import Job
from sharetune.spaces.run_folder import RunFolder


class Weights:
    """The trial folders of a run: weights of ended trials, checkpoints of interrupted ones.

    `keep` says whose weights stay: "front" (and the anchors'), "all" or "none".
    """

    def __init__(self, run: RunFolder, ledger: Ledger, keep: str, history: Sequence[Trial]) -> None:
        self.run, self.ledger, self.keep = run, ledger, keep
        self._stored = run.trial_numbers()
        self._left: dict[str, int] = {}
        for trial in history:
            if trial.is_interrupted and run.trial(trial.number).checkpoints.is_dir():
                self._left[trial.candidate.key()] = trial.number

    def take_over(self, job: Job) -> None:
        """Let `job` go on from the checkpoints that an interrupted trial of its candidate left."""
        left = self._left.pop(job.candidate.key(), None)
        if left is not None:
            job.folder.path.mkdir(parents=True, exist_ok=True)
            self.run.trial(left).checkpoints.replace(job.folder.checkpoints)

    def tidy(self, latest: int, running: Collection[int]) -> None:
        """Remove the folders of trials that are not to be kept, once trial `latest` has ended."""
        self._stored.add(latest)
        in_use = {*running, *self._left.values()}
        for number in [n for n in self._stored if n not in in_use and not self._keeps(n)]:
            shutil.rmtree(self.run.trial(number).path, ignore_errors=True)
            self._stored.remove(number)

    def _keeps(self, number: int) -> bool:
        trial = self.ledger.find(number)
        if trial is None:
            every = self.keep == "all"
            return self.keep != "none" and self.ledger.finals.keeps(number, every=every)
        if self.keep == "all" or trial.anchor is not None:
            return True
        return self.keep == "front" and self.ledger.is_on_front(number)
