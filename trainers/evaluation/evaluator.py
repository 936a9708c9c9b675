"""Train and measure one candidate: all that happens to a trial on a worker.

>>> evaluator = CandidateEvaluator.prepare("bert-base-uncased", task, cache, 128)   # doctest: +SKIP
>>> job = Job(0, Candidate(), RunFolder(Path("run")).trial(0))                      # doctest: +SKIP
>>> evaluator.evaluate(job, JobResources(), Unheard())                              # doctest: +SKIP
"""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, set_seed

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.compression import Compression
from sharetune.spaces.digest import digest
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.errors import CandidateFault, ConfigError
from sharetune.spaces.evaluator import (
    AS_TRAINED,
    PREDICTIONS,
    Exchanged,
    Job,
    JobResources,
    Listener,
    Measured,
    Metrics,
    PlanScore,
    Scores,
    Sizes,
    Untried,
    plain_fields,
)
from sharetune.spaces.forms import Narrow
from sharetune.spaces.latency import Latencies, LatencyRequest
from sharetune.spaces.pace import Pace
from sharetune.spaces.recipe import Candidate, Recipe
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers.compression.steps import quantised_copy, reshape_
from sharetune.trainers.data.text_augmentation import check_augmentation
from sharetune.trainers.evaluation.candidate_latency import device_name, measured_latency
from sharetune.trainers.evaluation.compressing import compress_
from sharetune.trainers.evaluation.local_starts import start_locally_
from sharetune.trainers.evaluation.recordings import kept_recording
from sharetune.trainers.evaluation.rehearsal import rehearse
from sharetune.trainers.loading import load_shared
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.memory import return_free_memory
from sharetune.trainers.models.calibration import (
    MOMENT_TOKENS,
    Activations,
    layer_similarity,
    record_activations,
)
from sharetune.trainers.models.compensation import Recorded
from sharetune.trainers.models.dtypes import TRAINED, cast_
from sharetune.trainers.models.positions import refuse_beyond_positions
from sharetune.trainers.models.pretrained import body_skeleton
from sharetune.trainers.models.sharing import share_
from sharetune.trainers.models.structure import find_stacks, stack_shapes, weight_out_in
from sharetune.trainers.scoring.calibration_sample import calibration_rows, scoring_batches
from sharetune.trainers.scoring.identity import (
    checkpoint_digest,
    data_digest,
    rows_digest,
    weights_digest,
)
from sharetune.trainers.scoring.scorer import Scorer
from sharetune.trainers.tasks.base import PreparedTask, Split, Task
from sharetune.trainers.tasks.harness import Harness
from sharetune.trainers.tasks.own_metric import OwnMetric
from sharetune.trainers.training.adapters import trained_alone
from sharetune.trainers.training.arguments import refuse_untrainable, used_precision
from sharetune.trainers.training.data_parallel import Team, joined, least
from sharetune.trainers.training.distillation import Lesson, check_teacher
from sharetune.trainers.training.heartbeat import Heart
from sharetune.trainers.training.micro_batches import equal_part
from sharetune.trainers.training.resuming import Checkpoints
from sharetune.trainers.training.rungs import Rungs
from sharetune.trainers.training.teachers import Teachers, check_tokens
from sharetune.trainers.training.touched import known
from sharetune.trainers.training.tracking import Tracked, check_trackers, tracking
from sharetune.trainers.training.trainer import (
    TrainingInputs,
    memory_watched,
    micro_batch,
    optimiser_steps,
    train,
)

CALIBRATION_TOKENS = 512
"""Tokens of a calibration batch at most, padding included: the inputs of all matrices are held."""

SCORING_SEED = 0
"""Seed of a head that the checkpoint does not have, so that all workers score the same model."""

KEPT_COUNTINGS = 4
"""Counted unshared models that a process caches, one for each `max_length`; spaces draw few."""


@dataclass(frozen=True)
class CandidateEvaluator:
    """Trains and measures candidates of one model for one prepared task.

    `teacher_recipe` trains the unshared model where it becomes a teacher (None: the candidate's own
    recipe). `trackers` log the trials under the name `study`. Untrained plans are measured on about
    as many training examples as have `predictions`. Trained models also do the tasks of
    `harness`, and are measured once more in each of `number_formats`.
    """

    task: PreparedTask
    stacks: dict[str, StackShape]
    teacher_recipe: Recipe | None = None
    trackers: tuple[str, ...] = ()
    study: str = ""
    predictions: int = PREDICTIONS
    harness: Harness | None = None
    number_formats: tuple[str, ...] = ()

    @classmethod
    def prepare(
        cls,
        model: str,
        task: Task,
        cache: Path,
        max_length: int,
        *,
        similarity: bool = False,
        metric: OwnMetric | None = None,
        **settings: Any,
    ) -> "CandidateEvaluator":
        """Read the data and the model's shape, once a study; `cache` holds the tokenised data.

        With `similarity` the layers' outputs on training text are compared, for assignments that
        need it; with a `metric` of the user's models are measured by that too. `settings` are
        further fields of the evaluator. Raises :class:`SharetuneError` for
        data or a model that do not fit.
        """
        quiet_libraries()
        prepared = replace(task.prepare(model, cache, max_length), metric=metric)
        evaluator = cls(prepared, stack_shapes(prepared.skeleton), **settings)
        return evaluator._with_similarity(max_length) if similarity else evaluator

    def _with_similarity(self, max_length: int) -> "CandidateEvaluator":
        refuse_beyond_positions(self.task.skeleton, max_length, "recipe.max_length")
        found = layer_similarity(self.task.load(), self._calibration_batches(max_length))
        stacks = {
            name: replace(shape, similarity=found[name]) for name, shape in self.stacks.items()
        }
        return replace(self, stacks=stacks)

    def __getstate__(self) -> dict[str, Any]:
        return plain_fields(self)

    @property
    def rows(self) -> dict[str, int]:
        """Number of examples of each split, by its name."""
        return self.task.rows

    @property
    def widths(self) -> dict[str, int]:
        """Hidden size of each stack, by its name: the rows of what its FFNs or attentions write."""
        return {
            name: len(weight_out_in(stack.layers[0].get_submodule(slot.path)))
            for name, stack in find_stacks(self.task.skeleton).items()
            for slot in stack.slots
            if slot.role in ("o", "fc_out")
        }

    @property
    def identity(self) -> dict[str, str]:
        """Digests of the weights that candidates start from, and of the data: training, others."""
        others = [split for split in self.task.rows if split != "train"]
        return {
            "model": weights_digest(self.task),
            "data": data_digest(self.task),
            "checkpoint": checkpoint_digest(self.task),
            "trained on": rows_digest(self.task, ["train"]),
            "measured on": rows_digest(self.task, others),
        }

    @property
    def pretrained(self) -> bool:
        """Whether candidates start from a checkpoint's weights, not from random ones."""
        return self.task.is_pretrained

    @property
    def labels(self) -> tuple[str, ...]:
        """A classification's labels, in order."""
        return self.task.facts.labels

    def refuse(self, candidates: Sequence[Candidate]) -> None:
        """Raise :class:`SharetuneError` for a recipe or a compression that cannot be done."""
        check_trackers(self.trackers)
        for candidate in candidates:
            self.task.task.check(candidate.recipe)
            _refuse_unadapted(candidate)
            refuse_untrainable(candidate.recipe, self.task.skeleton)
            if candidate.recipe.tokens is not None:
                self.steps(candidate.recipe)
            length = candidate.recipe.max_length
            refuse_beyond_positions(self.task.skeleton, length, "recipe.max_length")
            self.task.task.refuse_too_short(self.task.start, length)
        for settings in {c.recipe.distill for c in candidates if c.recipe.distill is not None}:
            self._refuse_teacher(settings)
        for candidate in candidates:
            if candidate.recipe.augment is not None:
                check_augmentation(candidate.recipe.augment)
            if candidate.compression != Compression():
                counting = self._counting(candidate.recipe.max_length)
                counting.built(candidate.plan, candidate.compression)

    def _refuse_teacher(self, settings: Distillation) -> None:
        student = self.task.skeleton
        teacher = student if settings.teacher == UNSHARED else body_skeleton(settings.teacher)
        check_teacher(student, teacher, settings, self.labels)
        if settings.teacher != UNSHARED:
            check_tokens(self.task, settings.teacher)

    def rehearse(self, candidate: Candidate, resources: JobResources) -> Pace | None:
        """Train the unshared model on two batches by the candidate's recipe, and keep nothing.

        None if memory ran out. Raises :class:`SharetuneError` for whatever else fails.
        """
        _begin(resources)
        return rehearse(self.task, candidate.recipe)

    def sizes(self, candidate: Candidate) -> Sizes:
        """Return the sizes, exact before training; see :func:`trainers.measuring.sizes.facts`."""
        counting = self._counting(candidate.recipe.max_length)
        return counting.facts(candidate.plan, candidate.compression)

    def score(self, candidate: Untried, resources: JobResources) -> PlanScore:
        """Measure how far an untrained plan, or an exchange, moves the model on training examples.

        Raises :class:`PlanError` if it does not fit, :class:`DataError` for too few examples, and
        :class:`ModelError` if the model's outputs hold nothing to compare.
        """
        _begin(resources)
        scorer: Scorer = self._scoring(candidate.recipe.max_length)
        if isinstance(candidate, Exchanged):
            return scorer.score_exchange(candidate.exchange)
        return scorer.score(candidate.plan)

    def evaluate(self, job: Job, resources: JobResources, listener: Listener) -> Measured:
        """Train the job's candidate, measure it on the split that selects candidates, and save it.

        The training writes checkpoints, and continues from those it finds. Raises
        :class:`CandidateFault` if the candidate cannot be trained, :class:`OutOfMemory` if memory
        runs out, and :class:`StoppedAtRung` if `listener` says to stop.
        """
        _begin(resources)
        return_free_memory()
        keeping = _checkpoints(job, resources)
        tracked = Tracked(
            self.study, str(job.number), job.candidate.written(), job.folder.run.tracking
        )
        with tracking(self.trackers, tracked) as (callbacks, logs):
            listening = [*callbacks, *self._rungs(job, listener), Heart(listener.beat)]
            with memory_watched():
                measured = self._evaluated(Training(job, resources, listening, keeping))
            for log in logs:
                log(measured.scores.metrics)
        return measured

    def assist(self, job: Job, resources: JobResources) -> None:
        """Train the job as a member of `resources.team`, whose leader evaluates it."""
        _begin(resources)
        return_free_memory()
        with memory_watched():
            rungs, keeping = self._rungs(job, _Assistant()), _checkpoints(job, resources)
            self._trained(Training(job, resources, rungs, keeping))

    def latency(self, model: Path | Candidate, request: LatencyRequest) -> Latencies:
        """Measure a saved model, or a candidate's architecture untrained, stored and materialised.

        It is used as the task uses it, in turns with the unshared model. Call it on a quiet device.
        """
        torch.set_num_threads(request.threads)
        stored = load_shared(model) if isinstance(model, Path) else self._untrained(model)
        return measured_latency(self.task, stored, request)

    def _untrained(self, candidate: Candidate) -> PreTrainedModel:
        """Build the candidate's architecture; which units it shares and prunes is arbitrary."""
        model = share_(self.task.load_as_saved(), candidate.plan)
        if candidate.compression == Compression():
            return model
        return reshape_(model, candidate.compression)

    def _rungs(self, job: Job, listener: Listener) -> list[TrainerCallback]:
        if not job.rungs:
            return []
        _, judged = self._splits(job.candidate.recipe)

        def measure(model: PreTrainedModel) -> dict[str, float]:
            metrics = self.task.scores(model, judged).metrics
            if self.harness is None or not self.harness.at_rungs:
                return metrics
            return metrics | self._done_tasks(model)[0]

        return [Rungs(job.rungs, measure, listener.rung)]

    def _evaluated(self, training: "Training") -> Measured:
        job, recipe = training.job, training.job.candidate.recipe
        trained = self._trained(training)
        model, train_s = trained.model, trained.seconds
        _, judged = self._splits(recipe)
        start = time.perf_counter()
        scores = self.task.scores(model, judged)
        test = self._test_scores(model, recipe) if job.final else None
        numbers, details = self._done_tasks(model)
        by_format = self._quantised(model, training.job.candidate, judged)
        by_format |= {AS_TRAINED: scores.metrics} if by_format else {}
        scores = replace(scores, metrics=scores.metrics | numbers)
        if test is not None:
            test = replace(test, metrics=test.metrics | numbers)
        evaluate_s = time.perf_counter() - start
        cast_(model, self.task.saved_dtype).save_pretrained(job.folder.model)
        total_s = train_s + time.perf_counter() - start
        seconds = {"train": train_s, "evaluate": evaluate_s, "total": total_s}
        return Measured(
            scores,
            trained.curve,
            {what: round(value, 3) for what, value in seconds.items()},
            training.circumstances(trained.micro_batch)
            | {"steps": self.steps(recipe)}
            | self._dtypes
            | details,
            test,
            by_format,
        )

    def _quantised(
        self, model: PreTrainedModel, candidate: Candidate, judged: Split
    ) -> dict[str, Metrics]:
        """Return the metrics of `model` in each number format, if it is not quantised already."""
        if candidate.compression.quantize is not None:
            return {}
        return {
            name: self.task.scores(quantised_copy(model, name), judged).metrics
            for name in self.number_formats
        }

    def _done_tasks(self, model: PreTrainedModel) -> tuple[Metrics, dict[str, Any]]:
        """Return the numbers of the harness's tasks, and the circumstances that they have."""
        if self.harness is None:
            return {}, {}
        tokenizer = self.task.task.reader(self.task.start)
        metrics, details = self.harness.measure(model, tokenizer)
        return metrics, {"lm_eval": details}

    @property
    def _dtypes(self) -> dict[str, str]:
        found = {"dtype": TRAINED, "saved_dtype": self.task.saved_dtype}
        return {name: str(dtype).removeprefix("torch.") for name, dtype in found.items()}

    def _test_scores(self, model: PreTrainedModel, recipe: Recipe) -> Scores | None:
        """Score `model` on the test split; None where the study selects on that split already."""
        if self.task.task.validation is None:
            return None
        return self.task.scores(model, self.task.test_split(recipe.max_length))

    def _trained(self, training: "Training") -> "Trained":
        """Train and compress the model. Its weights are rounded to the dtype they are stored in."""
        candidate, recipe = training.job.candidate, training.job.candidate.recipe
        split, _ = self._splits(recipe)
        inputs = TrainingInputs(
            split.rows,
            split.collate,
            total_steps=self.steps(recipe),
            lesson=self._lesson(recipe, split),
            callbacks=training.callbacks,
            checkpoints=training.checkpoints,
            sharded=training.resources.shard,
        )
        training.check()
        start = time.perf_counter()
        set_seed(recipe.seed)
        model = self.task.load()
        activations = self._activations(candidate)
        before = known(model) if recipe.trains == "shared" else None
        share_(model, candidate.plan, activations, schedule=recipe.soften)
        if recipe.start is not None:
            start_locally_(model, self.task, activations, recipe.start, recipe.max_length)
        del activations  # a mapped file that would stay in memory
        steps = inputs.total_steps
        with joined(training.team):
            with trained_alone(model, recipe, before) as left:
                inputs = replace(inputs, frozen=left)
                at_once = training.at_once(micro_batch(model, recipe, inputs))
                inputs = replace(inputs, micro_batch=least(at_once))
                curve = train(model, recipe, inputs)
            if candidate.compression != Compression():
                batches = self._calibration_batches(recipe.max_length, labelled=True)
                further = round(candidate.compression.recover * steps)
                again = replace(inputs, total_steps=further, checkpoints=None)
                points = compress_(model, candidate, batches, again)
                curve += [[steps + step, loss] for step, loss in points]
        cast_(cast_(model, self.task.saved_dtype), TRAINED)
        seconds = training.seconds_before + time.perf_counter() - start
        return Trained(model, curve, seconds, inputs.micro_batch or recipe.batch_size)

    def steps(self, recipe: Recipe) -> int:
        """Return the optimiser steps of a training."""
        split, _ = self._splits(recipe)
        return optimiser_steps(recipe, split.rows)

    def _splits(self, recipe: Recipe) -> tuple[Split, Split]:
        return self.task.splits(recipe.max_length, recipe.augment)

    def _lesson(self, recipe: Recipe, split: Split) -> Lesson | None:
        """Return the teacher's lesson for a recipe that distils; made when first needed."""
        if recipe.distill is None:
            return None
        teachers = Teachers(self.task, self.teacher_recipe or recipe.plain())
        return teachers.lesson(recipe.distill, split)

    def _activations(self, candidate: Candidate) -> Activations | None:
        """Record the pretrained units' activations on training text if the plan needs them."""
        groups = candidate.plan.groups
        if not any(group.form.calibrated or group.matches_units for group in groups):
            return None
        narrows = any(isinstance(group.form, Narrow) for group in groups)
        return self._recorded(candidate.recipe.max_length, MOMENT_TOKENS if narrows else 0)

    @cached_property
    def _counting(self) -> Any:
        return lru_cache(maxsize=KEPT_COUNTINGS)(self._new_counting)

    def _new_counting(self, max_length: int) -> Counting:
        unshared = self.task.skeleton
        sample = self.task.task.sample(unshared, 1, max_length)
        return Counting(unshared, {key: value.to("meta") for key, value in sample.items()})

    @cached_property
    def _scoring(self) -> Any:
        return lru_cache(maxsize=1)(self._new_scorer)

    def _new_scorer(self, max_length: int) -> Scorer:
        split, _ = self.task.splits(max_length, None)
        rows = calibration_rows(len(split.rows))
        batches = scoring_batches(split, rows, self.predictions)
        set_seed(SCORING_SEED)
        model = self.task.load()
        return Scorer(model, batches, self._recorded(max_length, MOMENT_TOKENS))

    def _recorded(self, max_length: int, moment_tokens: int) -> Activations:
        """Return what was recorded, with moments of as many tokens or, where there are, of more."""

        def record() -> Recorded:
            batches = self._calibration_batches(max_length)
            return record_activations(self.task.load(), batches, moment_tokens=moment_tokens)

        most = self._recording(max_length, MOMENT_TOKENS)
        enough = most if most.exists() else self._recording(max_length, moment_tokens)
        return kept_recording(enough, record)

    def _recording(self, max_length: int, moment_tokens: int) -> Path:
        name = digest([self.task.start, max_length, moment_tokens, "experts"])
        return self.task.cache / "recorded" / f"{name}.pt"

    def _calibration_batches(
        self, max_length: int, *, labelled: bool = False
    ) -> list[dict[str, Tensor]]:
        """Return the inputs of 64 training examples, spread over the split, in batches."""
        split, _ = self.task.splits(max_length, None)
        rows = [split.rows[number] for number in calibration_rows(len(split.rows))]
        size = max(1, CALIBRATION_TOKENS // max_length)
        batches = [split.collate(rows[i : i + size]) for i in range(0, len(rows), size)]
        return [{k: v for k, v in batch.items() if labelled or k != "labels"} for batch in batches]


@dataclass(frozen=True)
class Trained:
    """A trained model, its curve, the seconds it took and the examples that passed at once."""

    model: PreTrainedModel
    curve: list[list[float]]
    seconds: float
    micro_batch: int


@dataclass(frozen=True)
class Training:
    """One training: its job, resources, callbacks and checkpoints."""

    job: Job
    resources: JobResources
    callbacks: Sequence[TrainerCallback]
    checkpoints: Checkpoints | None

    def check(self) -> None:
        """Raise :class:`CandidateFault` for a candidate that cannot be trained in this way."""
        candidate = self.job.candidate
        if self.resources.shard and candidate.unsharded:
            raise CandidateFault(f"a training with {candidate.unsharded} cannot be sharded")
        if candidate.unadapted:
            raise CandidateFault(f"adapters have no place with {candidate.unadapted}")

    @property
    def team(self) -> Team | None:
        """This process's place among those that train together."""
        team = self.resources.team
        assert team is None or isinstance(team, Team)
        return team

    @property
    def seconds_before(self) -> float:
        """Seconds that an interrupted training took before this one continued it."""
        return 0.0 if self.checkpoints is None else self.checkpoints.seconds_before

    def at_once(self, most: int) -> int:
        """Return the examples of a batch that are trained at once, by all processes together.

        `most` is how many this process may; a part of them where they did not fit.
        """
        size, members = self.job.candidate.recipe.batch_size, self.team.size if self.team else 1
        return equal_part(size, min(size, most * members) // self.resources.accumulation)

    def circumstances(self, micro_batch: int) -> dict[str, Any]:
        """Return where the numbers of this training come from."""
        recipe = self.job.candidate.recipe
        found = circumstances(self.resources.threads) | {"seed": recipe.seed}
        found["precision"] = used_precision(recipe)
        if micro_batch < recipe.batch_size:
            found["accumulation"] = recipe.batch_size // micro_batch
        if self.team is not None:
            found["workers"] = self.team.size
            found |= {"sharded": True} if self.resources.shard else {}
        if self.checkpoints is not None and self.checkpoints.continued_at:
            found["continued_at"] = self.checkpoints.continued_at
        if self.checkpoints is not None and self.checkpoints.unreadable:
            found["unreadable_checkpoints"] = self.checkpoints.unreadable
        return found


class _Assistant:
    """The listener of a process in a team whose leader alone reports."""

    def rung(self, rung: int, metrics: dict[str, float]) -> bool:
        raise AssertionError("only a team's leader reports")

    def beat(self, in_step: bool) -> None:
        raise AssertionError("only a team's leader is watched")


def circumstances(threads: int) -> dict[str, Any]:
    """Return where a number comes from: device, threads, host, process."""
    return {
        "device": device_name(),
        "threads": threads,
        "host": platform.node(),
        "pid": os.getpid(),
    }


def _checkpoints(job: Job, resources: JobResources) -> Checkpoints | None:
    """Return the checkpoints of the job's training; batches in parts have a folder of their own."""
    if resources.checkpoint_s is None:
        return None
    folder = job.folder.checkpoints / str(resources.accumulation)
    return Checkpoints(folder, resources.checkpoint_s)


def _refuse_unadapted(candidate: Candidate) -> None:
    if candidate.unadapted:
        raise ConfigError(
            f"trains: adapters has no place for those of a layer with {candidate.unadapted}",
            "share in the form lowrank, whose readers have low-rank matrices of their own, and do "
            "not set compression.recover; or write trains: shared",
        )


def _begin(resources: JobResources) -> None:
    quiet_libraries()
    torch.set_num_threads(resources.threads)
    if resources.accumulation > 1 and torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the attempt that ran out of memory left


def quiet_libraries() -> None:
    """Leave out the bars and reports of libraries below errors, as a search has its own."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    import datasets

    datasets.disable_progress_bars()
