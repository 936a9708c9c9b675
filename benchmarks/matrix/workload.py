"""A workload: a study file whose one recipe all plans are trained by."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig

from sharetune.results.judging.summary import SAME_SIZE
from sharetune.search.config import StudyConfig
from sharetune.search.finalists import lengthened
from sharetune.search.scoring import score_study
from sharetune.search.starting import real_evaluator
from sharetune.search.study_file import load_config
from sharetune.spaces.anchors import Stacks
from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.evaluator import Job, JobResources, Metrics, Sizes, Unheard
from sharetune.spaces.objectives import OBJECTIVES, Objective, quality_of
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.score_file import ScoreFile, StoredScores
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.run_folder import RunFolder
from sharetune.trainers.data.new_models import READER_FILES
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.models.pretrained import built, from_library
from sharetune.trainers.scoring.calibration_sample import scoring_batches
from sharetune.trainers.training.trainer import optimiser_steps

PASSES = 3
"""Forward passes that a training step costs: one forward and one backward."""


@dataclass(frozen=True)
class Workload:
    """A study with its recipe settled, and the folder that everything made for it lies in.

    Ranges of the recipe are settled as those of a study's anchors are, so that no method is tuned.
    """

    config: StudyConfig
    folder: Path

    @classmethod
    def of(cls, study: Path, runs: Path) -> "Workload":
        """Read a study file. Raises :class:`SharetuneError` for a mistake in it."""
        config = load_config(study)
        recipe = config.space.reference_recipe().model_dump(mode="json", exclude_defaults=True)
        space = config.space.model_copy(update={"recipe": recipe})
        return cls(config.model_copy(update={"space": space}), runs.resolve() / config.name)

    def with_recipe(self, changes: Mapping[str, Any]) -> "Workload":
        """Return the workload with some of its recipe's values changed."""
        recipe = {**self.config.space.recipe, **changes}
        space = self.config.space.model_copy(update={"recipe": recipe})
        return replace(self, config=self.config.model_copy(update={"space": space}))

    @property
    def name(self) -> str:
        """Return the study's name."""
        return self.config.name

    @property
    def quality(self) -> Objective:
        """Return the objective that the matrix compares."""
        return quality_of([OBJECTIVES[name] for name in self.config.objectives])

    @cached_property
    def evaluator(self) -> CandidateEvaluator:
        """The evaluator of the study as it is, which counts sizes."""
        return _evaluator(self.config, self.folder / "study")

    @property
    def stacks(self) -> Stacks:
        """Return the model's stacks by name."""
        return self.evaluator.stacks

    @property
    def pretrained(self) -> bool:
        """Return whether trainings start from a checkpoint."""
        return self.evaluator.pretrained

    def candidate(self, plan: SharingPlan, times: float = 1.0, seed: int = 0) -> Candidate:
        """Return a plan with the workload's recipe, `times` as long."""
        recipe = lengthened(self.config.space.reference_recipe(), times)
        seeded = recipe.model_copy(update={"seed": seed})
        return Candidate(plan=plan, recipe=seeded).bound(self.stacks)

    def sizes(self, plan: SharingPlan) -> Sizes | None:
        """Return a plan's exact sizes; None for a plan that the model cannot have."""
        if plan not in self._counted:
            try:
                self._counted[plan] = self.evaluator.sizes(self.candidate(plan))
            except SharetuneError:
                self._counted[plan] = None
        return self._counted[plan]

    @cached_property
    def _counted(self) -> dict[SharingPlan, Sizes | None]:
        return {}

    @cached_property
    def scores(self) -> StoredScores:
        """The scores of a pretrained model's edits, measured when first asked for."""
        folder = RunFolder(self.folder / "scores")
        local = self.config.model_copy(update={"executor": "local"})
        if not folder.scores.exists():
            score_study(local, out=folder.path)
        return ScoreFile(folder.scores).read()

    @cached_property
    def scored_on(self) -> int:
        """Training examples that each edit of a pretrained model is scored on."""
        max_length = self.config.space.reference_recipe().max_length
        split, _ = self.evaluator.task.splits(max_length, None)
        batches = scoring_batches(split, predictions=self.config.scoring.tokens)
        return sum(len(next(iter(batch.values()))) for batch in batches)

    def fits(self, plan: SharingPlan, part: float) -> bool:
        """Return whether a plan can be had, and stores at most `part` (0..1) of the stacks.

        As in reports, a model with up to 1 % more parameters counts as no larger.
        """
        sizes, whole = self.sizes(plan), self.sizes(SharingPlan())
        assert whole is not None, "the unshared model can always be counted"
        most = whole["parameters"] - (1 - part) * whole["stack_parameters"]
        return sizes is not None and sizes["parameters"] <= most * SAME_SIZE

    def part(self, sizes: Sizes) -> float:
        """Return the fraction of the unshared stacks' parameters that a plan stores."""
        whole = self.sizes(SharingPlan())
        assert whole is not None, "the unshared model can always be counted"
        return sizes["stack_parameters"] / whole["stack_parameters"]

    def described(self, plan: SharingPlan, times: float, seed: int) -> dict[str, Any]:
        """Return what a row says of a training beforehand: sizes, steps, cost and the plan."""
        sizes = self.sizes(plan)
        assert sizes is not None, "only plans that the model can have are trained"
        written = self.candidate(plan, times, seed).plan.written()
        return {
            "stack": self.part(sizes),
            "parameters": int(sizes["parameters"]),
            "steps": self.steps(times),
            "pflop": self.pflop(plan, times),
            "plan": json.dumps(written, separators=(",", ":")),
        }

    def pflop(self, plan: SharingPlan, times: float = 1.0) -> float:
        """Return the cost of a training in 1e15 FLOP: three forward passes of each example."""
        sizes, recipe = self.sizes(plan), self.candidate(plan, times).recipe
        assert sizes is not None, "only plans that fit are trained"
        return PASSES * sizes["flops"] * recipe.batch_size * self.steps(times) / 1e15

    def steps(self, times: float = 1.0) -> int:
        """Return the optimiser steps of a training."""
        recipe = self.candidate(SharingPlan(), times).recipe
        return optimiser_steps(recipe, range(self.evaluator.rows["train"]))


class Trainings:
    """Trainings of one seed, each from the checkpoint, or from random weights of that seed."""

    def __init__(self, workload: Workload, seed: int, *, fresh: bool) -> None:
        """Prepare; only `fresh` ones of a pretrained model begin with random weights."""
        self.workload, self.seed = workload, seed
        self._folder = workload.folder / f"seed-{seed}"
        self._random = fresh or not workload.pretrained

    @cached_property
    def _evaluator(self) -> CandidateEvaluator:
        if not self._random:
            return self.workload.evaluator
        start = _random_start(self.workload.evaluator, self._folder / "start", self.seed)
        config = self.workload.config.model_copy(update={"model": start})
        return _evaluator(config, self._folder)

    def train(self, plan: SharingPlan, times: float) -> tuple[Metrics, float]:
        """Train a plan; return its metrics on the test split and the seconds that it took."""
        folder = RunFolder(self._folder).trial(0)
        job = Job(0, self.workload.candidate(plan, times, self.seed), folder, final=True)
        measured = self._evaluator.evaluate(job, JobResources(checkpoint_s=None), Unheard())
        shutil.rmtree(folder.path, ignore_errors=True)
        return (measured.test or measured.scores).metrics, measured.seconds["total"]


def _evaluator(config: StudyConfig, folder: Path) -> CandidateEvaluator:
    return cast(CandidateEvaluator, real_evaluator(config, RunFolder(folder)))


def _random_start(evaluator: CandidateEvaluator, folder: Path, seed: int) -> str:
    """Write a model of the evaluator's configuration with random weights; return its folder."""
    prepared = evaluator.task
    head = prepared.task.head(prepared.facts)
    config = from_library(AutoConfig, prepared.start, **head)
    folder.mkdir(parents=True, exist_ok=True)
    for name in READER_FILES:
        if (Path(prepared.start) / name).exists():
            shutil.copy(Path(prepared.start) / name, folder / name)
    torch.manual_seed(seed)
    built(prepared.task.auto, config).save_pretrained(folder)
    return str(folder)
