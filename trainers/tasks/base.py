"""The interface of tasks: data, model head, loss and metrics, named as Hugging Face names them.

A new task is one file here with one :class:`Task` registered under its name; nothing else has to
know of it. Metrics that are not in `sharetune.spaces.objectives` are registered in that file too.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field, PrivateAttr, ValidationInfo, field_validator
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
)

from sharetune.spaces.augmentation import Augmentation
from sharetune.spaces.errors import ConfigError, DataError, ModelError
from sharetune.spaces.evaluator import Scores, plain_fields
from sharetune.spaces.paths import expanded
from sharetune.spaces.recipe import Recipe
from sharetune.spaces.registry import Registry, did_you_mean
from sharetune.spaces.settings import StrictModel, read_settings
from sharetune.trainers.data.dummy_inputs import full_length
from sharetune.trainers.data.new_models import new_tokenizer, special_ids, start_of, started
from sharetune.trainers.data.reader_fit import (
    pad_as_the_model,
    padding_settings,
    refuse_too_short,
    refuse_unfit_vocabulary,
    refuse_unknown_texts,
)
from sharetune.trainers.data.row_cache import cached_rows
from sharetune.trainers.data.tables import read_table
from sharetune.trainers.models.dtypes import TRAINED, saved_dtype
from sharetune.trainers.models.positions import most_tokens
from sharetune.trainers.models.pretrained import from_library, pretrained, skeleton
from sharetune.trainers.tasks.own_metric import OwnMetric, predicted
from sharetune.trainers.tasks.prediction import predict

TASKS: Registry[type["Task"]] = Registry("task", package="sharetune.trainers.tasks")
TRUTH = "truth"
"""Column of rows that a task scores against, where that is not `labels`."""

KEPT_SPLITS = 4
"""Prepared splits that a worker caches: a search draws few lengths and augmentations in a row."""

MOST_TOKENS = 128
"""Longest default `max_length` in tokens: a trial's time grows with it."""

TOKENS_A_WORD = 1.6
"""Tokens that a word is assumed to have, on the generous side for subword tokenizers."""

HELD_OUT = 0.2
"""Fraction of the training data that is held out where a study names no test data."""

NEED_A_FITTING_TASK = ("distill", "adversary", "r_drop", "augment", "label_smoothing")
"""Keys of a recipe that only tasks which name them in `fitting` can be trained with."""


@dataclass(frozen=True)
class Split:
    """Examples ready for a model: rows of its inputs, and the collate function that batches them.

    `labels` is the truth in the form that the task's `score` reads. `identity` is the same for
    equal rows, in this process and in any other of the study.
    """

    rows: Any
    collate: Any
    labels: Sequence[Any]
    identity: str


@dataclass(frozen=True)
class DataFacts:
    """Properties of the data that shape the model's head.

    A classification has `labels`, in order; a recommender ranks `items` (a count).
    """

    labels: tuple[str, ...] = ()
    items: int = 0


@dataclass(frozen=True)
class WrittenSplits:
    """Splits that lie in a cache: how many `rows` each has, and a `sample` of the training rows."""

    sample: pd.DataFrame
    facts: DataFacts
    rows: dict[str, int]


class Task(StrictModel, ABC):
    """Base class of all tasks. Fields are the keys of a study's `task` section.

    `test` may be a fraction of the training data, which is held out; without it that is a fifth.
    With `validation`, of the same kind as `test`, candidates are measured and selected on that
    split, and only finalists on the test split.

    A study calls :meth:`prepare` once; workers use the :class:`PreparedTask` it returns. `model` is
    a hub name or a folder. A task must say what is abstract here; the rest fits tasks of text whose
    prediction is the model's logits.
    """

    auto: ClassVar[Any]
    """The library's auto class for a model with this task's head."""
    fitting: ClassVar[tuple[str, ...]] = ()
    """The parts of a recipe, of `NEED_A_FITTING_TASK`, that this task can be trained with."""
    alterations: ClassVar[tuple[str, ...]] = ()
    """The keys of `augment` that say how an example is altered."""

    layout: ClassVar[int] = 1
    """Version of the rows that :meth:`rows` makes; those of another one are made anew."""
    pads: ClassVar[bool] = False
    """Whether texts of a batch are padded, and the model must know with which token."""
    reading: ClassVar[dict[str, Any]] = {}
    """Keywords that the task's tokenizer is loaded with."""

    unit: ClassVar[str] = "tokens; longer examples are cut"
    """Unit of a recipe's `max_length`, and what becomes of longer examples."""

    name: str = Field(description="the task's name, as `sharetune list tasks` prints it")
    train: str = Field(
        description="training data: a file, files by a pattern such as "
        "`train-*.csv`, a folder or the hub name of a data set"
    )
    validation: str | float | None = Field(
        None,
        description="data that candidates are selected on: of the same kind as `test`, or a "
        "fraction (0..1) of the training data; null: the test split",
    )
    test: str | float | None = Field(
        None,
        description="test data, of the same kind as `train`, or a fraction (0..1) of the training "
        "data, which is held out; null: a fifth of it",
    )
    _held_out: str = PrivateAttr("test")

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _one_source(cls, value: object) -> Any:
        if isinstance(value, list | tuple):
            raise ConfigError(
                f"a split is one file, folder or data set, but got {list(value)}",
                "name several files of one split by a pattern, such as data/train-*.csv",
            )
        return value

    @field_validator("validation", "test")
    @classmethod
    def _part_of_the_training_data(
        cls, value: str | float | None, info: ValidationInfo
    ) -> str | float | None:
        if isinstance(value, float) and not 0 < value < 1:
            raise ConfigError(
                f"task.{info.field_name} must be a file or a fraction of the training data between "
                f"0 and 1, but got {value:g}",
                f"write {info.field_name}: 0.2",
            )
        return value

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the objectives that :meth:`score` measures, the main one first."""

    @abstractmethod
    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        """Read and check the training and the test split; return both, and facts for workers.

        Raises :class:`DataError` that says what was found and what is needed.
        """

    @abstractmethod
    def rows(self, frame: pd.DataFrame, reader: object, max_length: int) -> dict[str, list[Any]]:
        """Return the model's inputs by name, one entry a row, with ``labels`` for the loss.

        ``truth``, if there, is what :meth:`score` compares with, else ``labels`` is.
        """

    @abstractmethod
    def score(self, predictions: object, labels: Sequence[Any], facts: DataFacts) -> Scores:
        """Score the predictions that :meth:`predict` returned for a split."""

    def head(self, facts: DataFacts) -> dict[str, Any]:
        """Return the head's part of the model's configuration, such as the labels."""
        return {}

    def reader(self, model: str) -> Any:
        """Load what turns data into the model's inputs: its tokenizer."""
        tokenizer = from_library(AutoTokenizer, model, **self.reading)
        if self.pads:
            pad_as_the_model(tokenizer, from_library(AutoConfig, model))
        return tokenizer

    def new_reader(self, config: object, frame: pd.DataFrame) -> Any:
        """Train a tokenizer on the training split, for a model trained from a configuration.

        `config` is brought in line with it in place.
        """
        return new_tokenizer(config, self.texts(frame), generates=self.generates)

    def texts(self, frame: pd.DataFrame) -> Iterable[str]:
        """Return the texts to train a new tokenizer on; none where the data are not texts."""
        return frame.get("text", ())

    def length(self, frame: pd.DataFrame, model: PreTrainedModel) -> int:
        """Return a default for the recipe's `max_length`, in its unit.

        It covers 19 of 20 texts, by their words, unless the model `generates`; it is at most 128
        and at most the positions of `model`, which may be a skeleton.
        """
        texts = [] if self.generates else [len(text.split()) for text in self.texts(frame)]
        words = sorted(texts)[int(0.95 * (len(texts) - 1))] if texts else MOST_TOKENS
        positions = getattr(model.config, "max_position_embeddings", None)
        named = positions if isinstance(positions, int) and positions > 0 else MOST_TOKENS
        most = most_tokens(model) or named
        return min(MOST_TOKENS, most, max(16, 8 * ceil(TOKENS_A_WORD * words / 8)))

    def refuse_unread(self, frame: pd.DataFrame, reader: Any, config: Any) -> None:
        """Raise :class:`DataError` for examples that the model's own `reader` cannot read.

        Raises :class:`ModelError` for a reader that does not fit the model of `config`.
        """
        texts = list(self.texts(frame))
        if texts:
            refuse_unfit_vocabulary(reader, config)
            refuse_unknown_texts(reader, texts, self.train)

    def refuse_model(self, model: PreTrainedModel) -> None:
        """Raise :class:`ModelError` for a loaded model that cannot do what the task asks of it."""

    def refuse_too_short(self, model: str, max_length: int) -> None:
        """Raise :class:`ConfigError` if a `max_length` of tokens leaves nothing of a text."""
        if self.pads:
            reader = self.reader(model)
            refuse_too_short(reader, max_length, "recipe.max_length", pairs=self.reads_pairs)

    @property
    def reads_pairs(self) -> bool:
        """Whether an example has two texts."""
        return False

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        """Return the function that makes a batch of rows."""
        return DataCollatorWithPadding(reader)

    def with_collate(self, collate: Callable[..., Any] | None) -> "Task":
        """Return the task with a collate function of the user's; None: as it is.

        Raises :class:`ConfigError` for a task that makes its own batches.
        """
        if collate is not None:
            raise ConfigError(
                f"the task {self.name} makes its own batches, but a collate function is given",
                "give two torch data sets with it, or leave it out",
            )
        return self

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        """Return the predictions that :meth:`score` reads: the logits of all rows, in order."""
        return predict(model, data=split.rows, collate=split.collate)

    def counted(self, model: PreTrainedModel, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the predictions of a batch that a teacher teaches: (predictions, classes).

        `logits` are those of `model` for the batch; by default each example is one prediction.
        """
        return logits

    def predictions_of(self, rows: Any) -> Any:
        """Return how many predictions :meth:`counted` finds in each of `rows`, a sequence or array.

        None: that depends on the other rows of a batch, so nothing can be kept of it.
        """
        return [1] * len(rows)

    def trainers_prediction(
        self, model: PreTrainedModel, split: Split, predictions: object
    ) -> EvalPrediction:
        """Return what the library's Trainer hands to `compute_metrics`, as arrays.

        `predictions` are those of :meth:`predict`. Raises :class:`ConfigError` for a task whose
        model has no logits for its labels.
        """
        if isinstance(predictions, Tensor) and predictions.ndim and len(split.labels):
            return EvalPrediction(predictions.numpy(), np.array(split.labels))
        if "labels" not in split.rows.column_names:
            raise ConfigError(
                f"the task {self.name} has no labels that a metric could compare logits with",
                f"it measures {', '.join(self.metrics)}",
            )
        return predicted(model, data=split.rows, collate=split.collate)

    def use(self, model: PreTrainedModel, inputs: dict[str, Tensor]) -> object:
        """Run the model once on `inputs` as the task uses it; this call is what latency times."""
        tokens = self.written(model)
        return self.write(model, inputs, tokens) if tokens else model(**inputs)

    def write(self, model: PreTrainedModel, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        """Generate exactly that many tokens from `inputs`, and return the decoder's ids.

        A decoder without an encoder has those that it reads in front. Raises :class:`ModelError`
        for a task that does not say how.
        """
        raise ModelError(f"the task {self.name} does not say how it writes", "give it `write`")

    def used(self, model: PreTrainedModel, max_length: int) -> str:
        """Describe in one phrase what :meth:`use` does with `model`."""
        return "one forward pass"

    def written(self, model: PreTrainedModel) -> int:
        """Return the number of tokens that :meth:`use` generates with `model`."""
        return 0

    @property
    def generates(self) -> bool:
        """Whether the model continues its own input, without an encoder."""
        return False

    def prepare(self, model: str, cache: Path, max_length: int) -> "PreparedTask":
        """Read and check the data, and prepare them in `cache` for all workers.

        Raises :class:`DataError` and :class:`ModelError` for data and a model that do not fit.
        """
        located = expanded(model)
        cache.mkdir(parents=True, exist_ok=True)
        written = self.write_splits(cache)
        reader = self._make_reader(located, written.sample)
        start = started(located, cache, self.auto, head=self.head(written.facts), reader=reader)
        self.refuse_unread(written.sample, self.reader(start), from_library(AutoConfig, start))
        self.splits(start, cache, max_length)
        return PreparedTask(self, model, cache, written.facts, written.rows)

    def write_splits(self, cache: Path) -> "WrittenSplits":
        """Read and check all splits, and write each into `cache` as a Parquet file."""
        frames, facts = self.read_splits()
        for name, frame in frames.items():
            frame.to_parquet(cache / f"{name}.parquet")
        rows = {name: len(frame) for name, frame in frames.items()}
        return WrittenSplits(frames["train"], facts, rows)

    def read_splits(self) -> tuple[dict[str, pd.DataFrame], DataFacts]:
        """Read and check all splits; return them by name, and facts for workers."""
        train, test, facts = self.read()
        if self.validation is None:
            return {"train": train, "test": test}, facts
        if isinstance(self.validation, float):
            train, validation = self.hold_out(train, self.validation)
        else:
            validating = self.model_copy(update={"test": self.validation})
            validating._held_out = "validation"
            _, validation, _ = validating.read()
        return {"train": train, "validation": validation, "test": test}, facts

    def hold_out(self, frame: pd.DataFrame, part: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Split `frame` at random into the rows that stay and a `part` (0..1) that is held out.

        Rows are drawn evenly over the values of :attr:`evenly_over`.
        """
        even = self.evenly_over
        pools = frame if even is None else frame.groupby(even)
        drawn = pools.sample(frac=part, random_state=0).index
        if drawn.empty or len(drawn) == len(frame):
            raise DataError(
                f"{self.train} has {len(frame)} rows to train on, of which none can be held out",
                "give more training data, or a file of its own",
            )
        rest = frame.drop(drawn)
        return rest.reset_index(drop=True), frame.loc[drawn].reset_index(drop=True)

    @property
    def holds_out_rows(self) -> bool:
        """Whether a part of the training rows, of any size, can be the test data."""
        return True

    @property
    def test_source(self) -> str:
        """The file or data set that test examples are read from."""
        return self.test if isinstance(self.test, str) else self.train

    @property
    def evenly_over(self) -> str | None:
        """The column over whose values held-out rows are drawn evenly; None: over all rows."""
        return None

    def load(
        self, model: str, facts: DataFacts, dtype: torch.dtype | str = TRAINED
    ) -> PreTrainedModel:
        """Load the pretrained model with this task's head, its weights in `dtype`.

        ``"auto"`` is the checkpoint's own.
        """
        return pretrained(self.auto, model, dtype=dtype, **self._settings(model, facts))

    def skeleton(self, model: str, facts: DataFacts) -> PreTrainedModel:
        """Build the same model on the meta device: shapes without weights."""
        return skeleton(self.auto, model, **self._settings(model, facts))

    def _settings(self, model: str, facts: DataFacts) -> dict[str, Any]:
        """Return what the model's configuration is changed in: its head, and its special ids."""
        new = special_ids(model)
        return self.head(facts) | new | (padding_settings(model) if self.pads and not new else {})

    def splits(
        self, model: str, cache: Path, max_length: int, augment: Augmentation | None = None
    ) -> tuple[Split, Split]:
        """Prepare the training split and the one that candidates are selected on.

        Both are cut to `max_length`; with `augment` the training split also has altered copies.
        """
        reader = self.reader(model)
        collate = self.collator(reader, model)
        judged = "test" if self.validation is None else "validation"
        wanted = _Wanted(model, cache, max_length)
        return (
            self._split("train", collate, reader, replace(wanted, augment=augment)),
            self._split(judged, collate, reader, wanted),
        )

    def test_split(self, model: str, cache: Path, max_length: int) -> Split:
        """Prepare the test split, cut to `max_length`."""
        reader = self.reader(model)
        wanted = _Wanted(model, cache, max_length)
        return self._split("test", self.collator(reader, model), reader, wanted)

    def sample(self, model: PreTrainedModel, batch: int, max_length: int) -> dict[str, Tensor]:
        """Return inputs of full length for counting FLOPs and timing; `model` may be a skeleton."""
        return full_length(model, batch, max_length)

    def check(self, recipe: Recipe) -> None:
        """Raise :class:`ConfigError` for a recipe that this task cannot be trained by."""
        for part in NEED_A_FITTING_TASK:
            if getattr(recipe, part) and part not in self.fitting:
                able = sorted(name for name, task in TASKS.items() if part in task.fitting)
                raise ConfigError(
                    f"recipe.{part} does not fit the task {self.name}",
                    f"leave it out; it fits {', '.join(able)}",
                )
        for name in recipe.augment.used if recipe.augment is not None else ():
            if name not in self.alterations:
                raise ConfigError(
                    f"recipe.augment.{name} does not fit the task {self.name}",
                    f"leave it out; what fits is {', '.join(self.alterations)}",
                )

    def table(self, source: str, split: str) -> pd.DataFrame:
        """Read the table of a `split` from `source`, a file or the hub name of a data set."""
        return read_table(source, split)

    def frames(
        self, check: Callable[[pd.DataFrame, str], pd.DataFrame]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Read the training and the test table, each passed through `check(table, source)`.

        Without a test file a part of the training rows is held out.
        """
        train = check(self.table(self.train, "train"), self.train)
        if isinstance(self.test, str):
            return train, check(self.table(self.test, self._held_out), self.test)
        return self.hold_out(train, self.test or HELD_OUT)

    def _make_reader(self, model: str, train: pd.DataFrame) -> Callable[[Any], Any]:
        def make(config: object) -> Any:
            return self.new_reader(config, train)

        return make

    def _split(self, name: str, collate: object, reader: object, wanted: "_Wanted") -> Split:
        words = [wanted.model, type(reader).__name__, *_size(reader), wanted.max_length]
        words += [self.model_dump(mode="json")] + [self.layout] * (self.layout > 1)
        words += [wanted.augment.model_dump()] if wanted.augment is not None else []

        def make() -> Iterator[dict[str, Any]]:
            file = wanted.cache / f"{name}.parquet"
            if wanted.augment is None:
                yield from self.row_parts(file, reader, wanted.max_length)
            else:
                frame = self.augmented(pd.read_parquet(file), wanted.augment)
                yield self.rows(frame, reader, wanted.max_length)

        rows, identity = cached_rows(wanted.cache, name, words, make)
        column = next((c for c in (TRUTH, "labels") if c in rows.column_names), None)
        labels: Sequence[Any] = [] if column is None else rows[column]
        if name != "train":  # what a score reads; those of training stay on disk
            labels = list(labels)
        if TRUTH in rows.column_names:
            rows = rows.remove_columns(TRUTH)
        return Split(rows, collate, labels, identity)

    def row_parts(self, file: Path, reader: object, max_length: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of the table in a Parquet file as :meth:`rows` makes them, in parts."""
        yield self.rows(pd.read_parquet(file), reader, max_length)

    def augmented(self, frame: pd.DataFrame, settings: Augmentation) -> pd.DataFrame:
        """Return `frame` with altered copies of its rows added."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Wanted:
    """Settings of a split: the `model` that reads it, its longest input, its altered copies."""

    model: str
    cache: Path
    max_length: int
    augment: Augmentation | None = None


def _size(reader: object) -> list[int]:
    return [len(reader)] if hasattr(reader, "__len__") else []


@dataclass(frozen=True)
class PreparedTask:
    """A task whose data are ready in `cache`, with the model it trains.

    `rows` counts the examples of each split. Environment variables in `model` are replaced where
    it is loaded, so that each machine finds its own copy. With `metric` models are also measured by
    a function of the user's.
    """

    task: Task
    model: str
    cache: Path
    facts: DataFacts
    rows: dict[str, int]
    metric: OwnMetric | None = None

    def __getstate__(self) -> dict[str, Any]:
        return plain_fields(self)

    @property
    def start(self) -> str:
        """The checkpoint that candidates start from.

        It is `model`, or the weights that were drawn for it where `model` is only a configuration.
        """
        return start_of(self.model, self.cache)

    @property
    def is_pretrained(self) -> bool:
        """Whether `model` comes with weights."""
        return self.start == expanded(self.model)

    def load(self, model: str | None = None) -> PreTrainedModel:
        """Load the unshared model, or another `model`, with the task's head, in float32."""
        return self.task.load(self.start if model is None else model, self.facts)

    def load_as_saved(self) -> PreTrainedModel:
        """Load the unshared model in the checkpoint's dtype, as its users run it."""
        return self.task.load(self.start, self.facts, "auto")

    @property
    def saved_dtype(self) -> torch.dtype:
        """The checkpoint's dtype, in which trained models are stored."""
        return saved_dtype(self.skeleton)

    @cached_property
    def skeleton(self) -> PreTrainedModel:
        """The unshared model on the meta device: shapes without weights."""
        return self.task.skeleton(self.start, self.facts)

    @cached_property
    def splits(self) -> Callable[..., tuple[Split, Split]]:
        """The function that prepares the training split and the one that selects candidates.

        It takes a maximum length and an augmentation, see :meth:`Task.splits`, and caches splits.
        """
        return lru_cache(maxsize=KEPT_SPLITS)(partial(self.task.splits, self.start, self.cache))

    def test_split(self, max_length: int) -> Split:
        """Return the test split, cut to `max_length`."""
        return self.task.test_split(self.start, self.cache, max_length)

    def scores(self, model: PreTrainedModel, split: Split) -> Scores:
        """Score `model` on a split."""
        predictions = self.task.predict(model, split)
        scores = self.task.score(predictions, split.labels, self.facts)
        if self.metric is None:
            return scores
        prediction = self.task.trainers_prediction(model, split, predictions)
        return replace(scores, metrics=scores.metrics | self.metric.measure(prediction))


def read_task(value: dict[str, Any]) -> Task:
    """Build the task of a study's `task` section.

    Raises :class:`ConfigError` that lists unknown names and keys, and values that do not fit.
    """
    if "name" not in value:
        raise ConfigError("task needs a name", did_you_mean("", list(TASKS)))
    task = TASKS[value["name"]]
    return read_settings(task, value, f"the task {value['name']}")
