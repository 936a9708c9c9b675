"""Trains and measures one candidate: all that happens to a trial on a worker.

>>> trainee = Trainee(model="bert-base-uncased", task=task, cache=Path("cache"))
>>> facts = trainee.prepare(max_length=128)                      # doctest: +SKIP
>>> trainee.evaluate(Candidate(), facts, save_to=Path("trials/0"))   # doctest: +SKIP
"""

import copy
import json
import os
import platform
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, set_seed

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.augmentation import Augmentation
from sharetune.spaces.compression import Compression
from sharetune.spaces.distillation import TEACHER_RECIPE
from sharetune.spaces.errors import ModelError
from sharetune.spaces.paths import expanded
from sharetune.spaces.plan import StackShape
from sharetune.spaces.recipe import Candidate, Recipe
from sharetune.trainers.compression.steps import reshape_
from sharetune.trainers.data.new_models import start_of
from sharetune.trainers.data.text_augmentation import check_augmentation
from sharetune.trainers.evaluation.compressing import compress_
from sharetune.trainers.exports.base import export
from sharetune.trainers.exports.onnx import onnx_run
from sharetune.trainers.loading import load_shared
from sharetune.trainers.measuring import latency
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.models.calibration import Activations, layer_similarity, record_activations
from sharetune.trainers.models.pretrained import body_skeleton
from sharetune.trainers.models.sharing import materialize_, share_
from sharetune.trainers.models.structure import stack_shapes
from sharetune.trainers.tasks.base import Split, Task
from sharetune.trainers.training import tracking
from sharetune.trainers.training.data_parallel import Team, joined
from sharetune.trainers.training.distillation import Lesson, check_teacher
from sharetune.trainers.training.heartbeat import Beat, Heart
from sharetune.trainers.training.resuming import Checkpoints
from sharetune.trainers.training.rungs import Report, Rungs
from sharetune.trainers.training.teachers import School
from sharetune.trainers.training.trainer import memory_watched, optimiser_steps, train

CALIBRATION_EXAMPLES = 64
TRACKING = "tracking"


@dataclass(frozen=True)
class Trainee:
    """The checkpoint and the task of a study. `cache` holds the tokenised data.

    Environment variables in `model` are replaced where it is loaded, so that each machine finds
    its own copy.
    """

    model: str
    task: Task
    cache: Path

    @property
    def start(self) -> str:
        """The checkpoint that candidates start from: `model`, or what was made of it where it is
        only a configuration."""
        return start_of(self.model, self.cache)

    def prepare(self, max_length: int, *, similarity: bool = False) -> dict[str, Any]:
        """Reads the data and the model's shape once a study; returns plain facts.

        With `similarity` the layers' outputs on training text are compared, which assignments
        found by similarity need.

        Raises :class:`SharetuneError` for data or a model that does not fit.
        """
        _quiet_library()
        facts = self.task.prepare(expanded(self.model), self.cache, max_length)
        shapes = stack_shapes(self.task.skeleton(self.start, facts))
        stacks: dict[str, dict[str, Any]] = {
            name: {"depth": shape.depth, "heads": shape.heads, "neurons": shape.neurons}
            for name, shape in shapes.items()
        }
        if similarity:
            model = self.task.load(self.start, facts)
            found = layer_similarity(model, _calibration_batches(self, max_length))
            stacks = {name: shape | {"similarity": found[name]} for name, shape in stacks.items()}
        return facts | {"stacks": stacks}

    def inspect(self, candidate: Candidate, facts: dict[str, Any]) -> dict[str, float]:
        """What is exact before training; see :func:`sharetune.trainers.measuring.sizes.facts`."""
        counting = _counting(self, _frozen(facts), candidate.recipe.max_length)
        return counting.facts(candidate.plan, candidate.compression)

    def check(self, candidates: Sequence[Candidate], facts: dict[str, Any]) -> None:
        """Raises :class:`SharetuneError` for a recipe or a compression that cannot be done,
        before anything is trained."""
        tracking.check_trackers((facts.get(TRACKING) or ((), ""))[0])
        student = _skeleton(self, _frozen(facts))
        for candidate in candidates:
            self.task.check(candidate.recipe)
        for settings in {c.recipe.distill for c in candidates if c.recipe.distill is not None}:
            own = settings.teacher == UNSHARED
            teacher = student if own else body_skeleton(settings.teacher)
            check_teacher(student, teacher, settings, facts.get("labels", []))
        for candidate in candidates:
            if candidate.recipe.augment is not None:
                check_augmentation(candidate.recipe.augment)
            if candidate.compression != Compression():
                counting = _counting(self, _frozen(facts), candidate.recipe.max_length)
                counting.built(candidate.plan, candidate.compression)

    def evaluate(
        self,
        candidate: Candidate,
        facts: dict[str, Any],
        *,
        save_to: Path,
        threads: int = 1,
        rungs: Sequence[float] = (),
        report: Report | None = None,
        accumulation: int = 1,
        final: bool = False,
        team: Team | None = None,
        checkpoints: Path | None = None,
        checkpoint_s: float = 300.0,
        beat: Beat | None = None,
    ) -> dict[str, Any]:
        """Trains `candidate`, measures it on the split that the study selects on (the validation
        split where there is one, else the test split) and saves it in `save_to`.

        A `final` one is measured on the test split too, as ``test``, where that is another.
        Returns metrics, the per-class report, the curve, seconds and circumstances as plain
        data. `save_to` is ``<run>/trials/<number>/model``. Raises :class:`CandidateFault` if the
        candidate cannot be trained, and :class:`StoppedAtRung` if `report`, which is told the
        metrics after each of `rungs` (fractions of the training), says to stop. With
        `accumulation` a batch is trained in so many parts, which needs less memory;
        :class:`OutOfMemory` tells when it runs out. `team` is the leader's place where others
        :meth:`assist`.

        A training without a team leaves a checkpoint in `checkpoints` every `checkpoint_s`
        seconds, and goes on from what it finds there. `beat` is told True when a step of the
        training begins and False when it has ended.
        """
        _begin(threads, accumulation)
        names, study = facts.get(TRACKING) or ((), "")
        number = save_to.parent.name
        folder = save_to.parent.parent.parent / tracking.FOLDER
        tracked = tracking.Tracked(study, number, candidate.written(), folder)
        with tracking.tracking(names, tracked) as (callbacks, logs):
            if report is not None:
                callbacks = [*callbacks, self._rungs(candidate.recipe, facts, rungs, report)]
            if beat is not None:
                callbacks = [*callbacks, Heart(beat)]
            keeping = None
            if checkpoints is not None and team is None:
                keeping = Checkpoints(checkpoints / str(accumulation), checkpoint_s)
            work = Work(candidate, facts, callbacks, accumulation, team, keeping)
            with memory_watched():
                found = self._evaluate(work, save_to, final=final)
            for log in logs:
                log(found["metrics"])
        return found | {
            "circumstances": circumstances(threads)
            | {"seed": candidate.recipe.seed, "steps": found.pop("steps")}
            | ({"accumulation": accumulation} if accumulation > 1 else {})
            | ({"workers": team.size} if team is not None else {})
            | ({"continued_at": keeping.continued_at} if keeping and keeping.continued_at else {})
        }

    def assist(
        self,
        candidate: Candidate,
        facts: dict[str, Any],
        *,
        team: Team,
        threads: int = 1,
        rungs: Sequence[float] = (),
        accumulation: int = 1,
    ) -> None:
        """Trains `candidate` with the others of `team`, whose leader evaluates it with the same
        `rungs` (none if it does not report) and `accumulation`. Raises what `evaluate` does."""
        _begin(threads, accumulation)
        callbacks = [self._rungs(candidate.recipe, facts, rungs, _not_asked)] if rungs else []
        with memory_watched():
            self._trained(Work(candidate, facts, callbacks, accumulation, team))

    def _rungs(
        self, recipe: Recipe, facts: dict[str, Any], rungs: Sequence[float], report: Report
    ) -> Rungs:
        _, judged = _splits(self, recipe.max_length, recipe.augment)

        def measure(model: PreTrainedModel) -> dict[str, float]:
            metrics: dict[str, float] = self._scored(model, judged, facts)["metrics"]
            return metrics

        return Rungs(rungs, measure, report)

    def _evaluate(self, work: "Work", save_to: Path, *, final: bool) -> dict[str, Any]:
        recipe = work.candidate.recipe
        model, curve, steps, train_s = self._trained(work)
        _, judged = _splits(self, recipe.max_length, recipe.augment)
        start = time.perf_counter()
        scores = self._scored(model, judged, work.facts)
        if final and self.task.validation is not None:
            unseen = self.task.test_split(self.start, self.cache, recipe.max_length)
            scores["test"] = self._scored(model, unseen, work.facts)
        evaluate_s = time.perf_counter() - start
        model.save_pretrained(save_to)
        total_s = train_s + time.perf_counter() - start
        seconds = {"train": train_s, "evaluate": evaluate_s, "total": total_s}
        return scores | {
            "curve": curve,
            "steps": steps,
            "seconds": {what: round(value, 3) for what, value in seconds.items()},
        }

    def _trained(self, work: "Work") -> tuple[PreTrainedModel, list[list[float]], int, float]:
        """The trained and compressed model, its curve, its steps and the seconds it took."""
        candidate, recipe = work.candidate, work.candidate.recipe
        split, _ = _splits(self, recipe.max_length, recipe.augment)
        lesson = self._lesson(recipe, work.facts, split)
        start = time.perf_counter()
        set_seed(recipe.seed)
        model = self.task.load(self.start, work.facts)
        activations = self._activations(candidate, work.facts)
        share_(model, candidate.plan, activations, schedule=recipe.soften)
        steps = optimiser_steps(recipe, len(split.rows))
        with joined(work.team):
            curve = train(
                model,
                recipe,
                data=split.rows,
                collate=split.collate,
                total_steps=steps,
                lesson=lesson,
                callbacks=work.callbacks,
                accumulation=work.accumulation,
                checkpoints=work.checkpoints,
            )
            if candidate.compression != Compression():
                batches = _calibration_batches(self, recipe.max_length, labelled=True)
                further = round(candidate.compression.recover * steps)
                points = compress_(
                    model, candidate, split, lesson, further, batches, work.accumulation
                )
                curve += [[steps + step, loss] for step, loss in points]
        before_s = 0.0 if work.checkpoints is None else work.checkpoints.seconds_before
        return model, curve, steps, before_s + time.perf_counter() - start

    def _scored(
        self, model: PreTrainedModel, split: Split, facts: dict[str, Any]
    ) -> dict[str, Any]:
        return self.task.score(self.task.predict(model, split), split.labels, facts)

    def _activations(self, candidate: Candidate, facts: dict[str, Any]) -> Activations | None:
        """What the pretrained units do on training text, if the plan asks; kept for the next."""
        groups = candidate.plan.groups
        if not any(group.form.calibrated or group.matches_units for group in groups):
            return None
        return _recorded(self, _frozen(facts), candidate.recipe.max_length)

    def _lesson(self, recipe: Recipe, facts: dict[str, Any], split: Split) -> Lesson | None:
        """What a recipe that distils learns from; its teacher is made by whoever comes first."""
        if recipe.distill is None:
            return None
        school = School(self.start, self.task, facts, self.cache)
        own = facts.get(TEACHER_RECIPE)
        teachers = recipe.plain() if own is None else Recipe.model_validate(own)
        return school.lesson(recipe.distill, teachers, split)

    def latency(
        self,
        model: Path | Candidate,
        facts: dict[str, Any],
        *,
        max_length: int,
        threads: int,
        rounds: int,
        throughput: int | None = None,
        onnx: bool = False,
        graphs: bool = False,
    ) -> dict[str, Any]:
        """Latency of a model, stored and materialised: of the one saved in a folder, or of a
        candidate's architecture, untrained. It is used as the task uses it on one example of
        `max_length` tokens, in turns with the unshared model; with `throughput` also on a batch of
        so many, over a third of the rounds; with `onnx` also one forward pass of both as
        onnxruntime runs them on the CPU, where they can be exported. On a GPU `graphs` replays
        CUDA graphs, where the use can be captured. Call it on a quiet device."""
        torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        stored = load_shared(model) if isinstance(model, Path) else self._untrained(model, facts)
        stored = stored.to(device)
        models: dict[str, PreTrainedModel] = {
            "unshared": self.task.load(self.start, facts).to(device),
            "stored": stored,
            "materialised": materialize_(copy.deepcopy(stored)),
        }
        graphs = graphs and device == "cuda"
        found = self._compared(models, 1, max_length, graphs=graphs, rounds=rounds)
        if onnx:
            with suppress(ModelError):
                sample = self.task.sample(models["unshared"], 1, max_length)
                exported, found["onnx_unshared_ms"] = _exported(models, sample, rounds)
                found["forms"]["onnx"] = exported
        return {
            **found,
            "use": self.task.used(stored, max_length),
            **({"written_tokens": written} if (written := self.task.written(stored)) else {}),
            "batch_size": 1,
            "max_length": max_length,
            "rounds": rounds,
            "device": device_name(),
            "threads": threads,
            **self._throughput(models, max_length, rounds, throughput, graphs=graphs),
        }

    def _untrained(self, candidate: Candidate, facts: dict[str, Any]) -> PreTrainedModel:
        """The candidate's architecture; which units are shared, pruned or private is arbitrary."""
        model = share_(self.task.load(self.start, facts), candidate.plan)
        if candidate.compression == Compression():
            return model
        return reshape_(model, candidate.compression)

    def _throughput(
        self,
        models: dict[str, PreTrainedModel],
        max_length: int,
        rounds: int,
        batch: int | None,
        *,
        graphs: bool,
    ) -> dict[str, Any]:
        if batch is None:
            return {}
        turns = {"rounds": max(3, rounds // 3), "warmup": 2}
        found = self._compared(models, batch, max_length, graphs=graphs, **turns)
        return {"throughput": found | {"batch_size": batch}}

    def _compared(
        self,
        models: dict[str, PreTrainedModel],
        batch_size: int,
        max_length: int,
        *,
        graphs: bool,
        **turns: int,
    ) -> dict[str, Any]:
        """How long each model takes for so many examples, as the storage keeps it."""
        sample = self.task.sample(models["unshared"], batch_size, max_length)
        device = models["unshared"].device
        runs = latency.uses(models, sample, self.task.use)
        timed_by = "CUDA events" if device.type == "cuda" else "wall clock"
        if graphs:
            with suppress(ModelError):
                runs = {name: latency.replayed(run) for name, run in runs.items()}
                timed_by += ", CUDA graphs"
        found = latency.compare(runs, "unshared", device, **turns)
        return {
            "forms": {name: found.models[name].written() for name in ("stored", "materialised")},
            "unshared_ms": found.models["unshared"].written()["median_ms"],
            "rounds_taken": found.rounds,
            "drift": round(found.drift, 4),
            "preempted": round(found.preempted, 4),
            "timed_by": timed_by,
        }


@dataclass(frozen=True)
class Work:
    """One candidate to train: what listens to its training, in how many parts its batches are
    trained, with whom, and where it leaves checkpoints."""

    candidate: Candidate
    facts: dict[str, Any]
    callbacks: Sequence[TrainerCallback]
    accumulation: int
    team: Team | None
    checkpoints: Checkpoints | None = None


def shapes(facts: dict[str, Any]) -> dict[str, StackShape]:
    """The stacks' shapes out of what :meth:`Trainee.prepare` returned."""
    return {name: StackShape(**shape) for name, shape in facts["stacks"].items()}


def circumstances(threads: int) -> dict[str, Any]:
    """Where a number comes from: device, threads, host, process."""
    return {
        "device": device_name(),
        "threads": threads,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def device_name() -> str:
    """The accelerator's name, or the processor's architecture."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def _exported(
    models: dict[str, PreTrainedModel], sample: dict[str, Tensor], rounds: int
) -> tuple[dict[str, float], float]:
    """How long onnxruntime takes for the stored model, with as many threads as torch has, and the
    unshared one's median."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = {}
        for name in ("unshared", "stored"):
            folder = Path(scratch) / name
            export(copy.deepcopy(models[name]).cpu(), folder, "onnx")
            runs[name] = onnx_run(folder, sample, threads=torch.get_num_threads())
        found = latency.compare(runs, "unshared", torch.device("cpu"), rounds=rounds).models
    return found["stored"].written(), found["unshared"].written()["median_ms"]


def _begin(threads: int, accumulation: int) -> None:
    _quiet_library()
    torch.set_num_threads(threads)
    if accumulation > 1 and torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the attempt that ran out of memory left


def _not_asked(rung: int, metrics: dict[str, float]) -> bool:
    raise AssertionError("only a team's leader reports")


def _quiet_library() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    import datasets

    datasets.disable_progress_bars()


def _frozen(facts: dict[str, Any]) -> str:
    """Facts are plain data, so their text can be the key of a cache."""
    return json.dumps(facts, sort_keys=True)


@lru_cache(maxsize=4)
def _skeleton(trainee: Trainee, facts: str) -> PreTrainedModel:
    return trainee.task.skeleton(trainee.start, json.loads(facts))


@lru_cache(maxsize=4)
def _counting(trainee: Trainee, facts: str, max_length: int) -> Counting:
    unshared = _skeleton(trainee, facts)
    sample = trainee.task.sample(unshared, 1, max_length)
    return Counting(unshared, {key: value.to("meta") for key, value in sample.items()})


@lru_cache(maxsize=1)
def _recorded(trainee: Trainee, facts: str, max_length: int) -> Activations:
    model = trainee.task.load(trainee.start, json.loads(facts))
    return record_activations(model, _calibration_batches(trainee, max_length))


def _calibration_batches(
    trainee: Trainee, max_length: int, *, labelled: bool = False
) -> list[dict[str, Tensor]]:
    """Inputs of 64 training examples, spread over the split."""
    split, _ = _splits(trainee, max_length)
    every = max(1, len(split.rows) // CALIBRATION_EXAMPLES)
    rows = [split.rows[i] for i in range(0, len(split.rows), every)][:CALIBRATION_EXAMPLES]
    batches = [split.collate(rows[i : i + 16]) for i in range(0, len(rows), 16)]
    return [{k: v for k, v in batch.items() if labelled or k != "labels"} for batch in batches]


@lru_cache(maxsize=4)
def _splits(
    trainee: Trainee, max_length: int, augment: Augmentation | None = None
) -> tuple[Split, Split]:
    return trainee.task.splits(trainee.start, trainee.cache, max_length, augment)
