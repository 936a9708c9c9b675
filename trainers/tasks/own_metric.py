"""Measure models with a function of the kind that the library's Trainer takes as `compute_metrics`.

>>> def f2(prediction):                                                # doctest: +SKIP
...     guessed = prediction.predictions.argmax(-1)
...     return {"f2": fbeta_score(prediction.label_ids, guessed, beta=2)}
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import EvalPrediction, PreTrainedModel

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.evaluator import Metrics

ComputeMetrics = Callable[[EvalPrediction], Mapping[str, float]]
"""A function that turns predictions and labels, as arrays, into numbers by name."""

PADDING = -100
"""Fills up predictions and labels of unequal length, as the Trainer does."""


@dataclass(frozen=True)
class OwnMetric:
    """A function that measures `names`; each call must return exactly these."""

    function: ComputeMetrics
    names: tuple[str, ...]

    def measure(self, prediction: EvalPrediction) -> Metrics:
        """Return the function's numbers. Raises :class:`ConfigError` if they are not `names`."""
        found = numbers(self.function, prediction)
        if set(found) != set(self.names):
            raise ConfigError(
                f"the metric measured {', '.join(found) or 'nothing'}, and the study says "
                f"{', '.join(self.names)}",
                "let it return the same names each time",
            )
        return found


def numbers(function: ComputeMetrics, prediction: EvalPrediction) -> Metrics:
    """Call a `compute_metrics` function; return its numbers by name.

    Raises :class:`ConfigError` for a function that fails, or returns anything but numbers by name.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        found = function(prediction)
    except Exception as error:  # whatever a user's function raises
        raise ConfigError(
            f"the metric {name} failed: {type(error).__name__}: {error}",
            "it is called as the Trainer's compute_metrics is; .predictions and .label_ids are of "
            f"the shapes {_shapes(prediction)}",
        ) from error
    if not isinstance(found, Mapping) or not found:
        raise ConfigError(
            f"the metric {name} must return numbers by name, but returned {type(found).__name__}",
            'for example {"f2": 0.83}',
        )
    return {str(key): _number(name, key, value) for key, value in found.items()}


def _number(name: str, key: object, value: object) -> float:
    plain = value.item() if isinstance(value, np.generic | np.ndarray | Tensor) else value
    if not isinstance(plain, Real):
        raise ConfigError(
            f"the metric {name} must return numbers, but {key!r} is of {type(value).__name__}",
            "leave it out of what the function returns",
        )
    return float(plain)


def function_at(reference: str) -> ComputeMetrics:
    """Return the function that ``module:name`` refers to. Raises :class:`ConfigError`."""
    module, _, name = reference.partition(":")
    try:
        home = sys.modules.get(module) or import_module(module)
        found = getattr(home, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the function {reference} is not known to this process: {error}",
            "one of a notebook or script is given again: sharetune.search(..., resume=True); one "
            "of a file is named under plugins",
        ) from None
    if not callable(found):
        raise ConfigError(f"{reference} is no function", "name one as module:function")
    return found  # type: ignore[no-any-return]


def reference_of(function: Callable[..., Any]) -> str:
    """Return ``module:name`` of a function, by which :func:`function_at` may find it again."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', None) or '__main__'}:{name}"


def predicted(model: PreTrainedModel, *, data: object, collate: object) -> EvalPrediction:
    """Run `model` over `data`; return logits and labels as the Trainer would.

    Rows of unequal length are filled up with -100. The model is left in eval mode.
    """
    loader = torch.utils.data.DataLoader(data, batch_size=32, collate_fn=collate)
    model.eval()
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in loader:
        here = {key: value.to(model.device) for key, value in batch.items()}
        with torch.no_grad():
            logits += model(**here).logits.float().cpu()
        labels += batch["labels"]
    return EvalPrediction(_together(logits), _together(labels))


def _together(rows: list[Tensor]) -> np.ndarray:
    if len({row.shape for row in rows}) == 1:
        return torch.stack(rows).numpy()
    return pad_sequence(rows, batch_first=True, padding_value=PADDING).numpy()


def _shapes(prediction: EvalPrediction) -> str:
    return f"{np.shape(prediction.predictions)} and {np.shape(prediction.label_ids)}"
