"""Examples that are a model's inputs already, such as two torch data sets hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from pydantic import Field, PrivateAttr
from transformers import EvalPrediction, PreTrainedModel, default_data_collator

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores
from sharetune.trainers.models.mixtures import without_balancing
from sharetune.trainers.models.pretrained import ByArchitecture
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task
from sharetune.trainers.tasks.own_metric import function_at, predicted

FIRST = "0"
"""The first column of examples that were tuples."""

BATCH = 32
"""Examples of a prediction batch, as in the library's own evaluation."""


@dataclass(frozen=True)
class Examples:
    """A table's rows as their data set held them: tensors by name, or a tuple of them.

    The Trainer would leave out columns of a table that the model does not take, before they are
    put together.
    """

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        row: Mapping[str, Any] = self.rows[number]
        if FIRST in row:
            return tuple(torch.tensor(row[str(place)]) for place in range(len(row)))
        return {name: torch.tensor(value) for name, value in row.items()}


@TASKS.register("tensors")
class Tensors(Task):
    """examples that are a model's inputs already, of any model with a loss: evaluation loss

    `train` and `test` are tables whose columns are the model's inputs, numbers or nested lists of
    them, ``labels`` among them. `collate` names a function that makes a batch of examples, as
    ``module:name``; null: the library's default, which stacks them. The model is of the class that
    its configuration names.
    """

    auto: ClassVar[Any] = ByArchitecture()
    unit: ClassVar[str] = "tokens of the input that FLOPs and latency are measured with"

    collate: str | None = Field(
        None, description="function that makes a batch, as `module:name`; null: stack the examples"
    )
    _collate: Callable[..., Any] | None = PrivateAttr(None)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("eval_loss",)

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        return *self.frames(self._columns), DataFacts()

    def reader(self, model: str) -> Any:
        return None

    def new_reader(self, config: object, frame: pd.DataFrame) -> Any:
        return None

    def rows(self, frame: pd.DataFrame, reader: object, max_length: int) -> dict[str, list[Any]]:
        return {str(name): [_plain(cell) for cell in frame[name]] for name in frame.columns}

    def with_collate(self, collate: Callable[..., Any] | None) -> Task:
        if collate is None and self.collate is None:
            return self
        found = self.model_copy()
        found._collate = collate or function_at(str(self.collate))
        return found

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return self._collate or default_data_collator

    def _split(self, *args: Any, **settings: Any) -> Split:
        split = super()._split(*args, **settings)
        return replace(split, rows=Examples(split.rows))

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        """Return the model's mean loss over the split, in nats an example."""
        loader = torch.utils.data.DataLoader(split.rows, batch_size=BATCH, collate_fn=split.collate)
        model.eval()
        total = count = 0.0
        for batch in loader:
            here = {key: value.to(model.device) for key, value in batch.items()}
            with torch.no_grad():
                loss = model(**here, **without_balancing(model)).loss
            if loss is None:
                raise DataError(
                    "the model has no loss on these examples",
                    f"a batch needs labels, and has {', '.join(here)}",
                )
            size = len(next(iter(here.values())))
            total, count = total + float(loss) * size, count + size
        return total / count

    def trainers_prediction(
        self, model: PreTrainedModel, split: Split, predictions: object
    ) -> EvalPrediction:
        return predicted(model, data=split.rows, collate=split.collate)

    def score(self, predictions: Any, labels: Sequence[Any], facts: DataFacts) -> Scores:
        return Scores({"eval_loss": float(predictions)})

    def _columns(self, frame: pd.DataFrame, source: str) -> pd.DataFrame:
        for name in frame.columns:
            for row, cell in enumerate(frame[name], 1):
                if not _is_numeric(cell):
                    raise DataError(
                        f"{source} has {type(cell).__name__} in row {row}, column {name!r}, where "
                        "a model's input should be",
                        "inputs are numbers or nested lists of numbers; texts and pictures are "
                        "read by the other tasks",
                    )
        return frame


def _plain(cell: Any) -> Any:
    """Return nested arrays, as Parquet gives them back, as nested lists."""
    return [_plain(each) for each in cell] if hasattr(cell, "__len__") else cell


def _is_numeric(cell: Any) -> bool:
    if isinstance(cell, list | tuple) or hasattr(cell, "tolist"):
        return all(map(_is_numeric, cell)) if hasattr(cell, "__len__") else True
    return isinstance(cell, int | float)
