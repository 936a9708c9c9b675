"""Trace a part of a model as a graph of ONNX whose batch size and lengths are free."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import answering
from sharetune.trainers.exports.onnx_graph import store_once
from sharetune.trainers.models.modules import products_apart
from sharetune.trainers.models.sample_inputs import Inputs

AXIS_NAMES = {"decoder_input_ids": "decoder_sequence"}
"""Names for the dynamic text length of inputs that may differ in it from the others."""


class Logits(nn.Module):
    """A model as a function of unnamed tensors, without a KV cache."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits for the tensors of `names`."""
        return answering(self.model)(dict(zip(self.names, tensors, strict=True)))


@dataclass(frozen=True)
class Graph:
    """A function to trace: the one that `kind` makes of the model, its inputs with their free axes,
    and the names of its outputs."""

    kind: Callable[[PreTrainedModel, list[str]], nn.Module]
    inputs: Inputs
    axes: tuple[dict[int, str], ...]
    outputs: list[str]


def traced(model: PreTrainedModel, graph: Graph) -> Any:
    """Return the traced model, whose weights are stored as `store_once` says.

    Raises :class:`ModelError` if it cannot be traced.
    """
    names = list(graph.inputs)
    with plain_copy(model) as plain, _embeddings_read_as_they_are(plain), _without_warnings():
        try:
            program = torch.onnx.export(
                graph.kind(plain, names).eval(),
                tuple(graph.inputs.values()),
                dynamo=True,
                input_names=names,
                output_names=graph.outputs,
                dynamic_shapes=(graph.axes,),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelError(
                f"{type(model).__name__} cannot be written as ONNX: {reason_of(error)}",
                "export as dense, and convert that with optimum",
            ) from error
    store_once(program.model)
    return program


@contextmanager
def plain_copy(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Yield a copy of a model that can be traced: one pass without a cache, in plain products."""
    plain = copy.deepcopy(model).eval()
    plain.config.use_cache = False
    # gives fewer nodes than fused attention, and is the only one with which T5 can be traced
    plain.set_attn_implementation("eager")
    with products_apart(plain):
        yield plain


def free_axes(name: str, tensor: Tensor) -> dict[int, str]:
    """Return the names of the free axes of an input of a whole pass."""
    axes = {0: "batch"} if len(tensor) > 1 else {}
    if tensor.dim() == 2 and not tensor.is_floating_point():
        axes[1] = AXIS_NAMES.get(name, "sequence")
    return axes


@contextmanager
def _embeddings_read_as_they_are(model: PreTrainedModel) -> Iterator[None]:
    """Make output layers that are tied to embeddings multiply rows, within the context.

    Of rows the exporter writes a product by the matrix as it lies, else by a second, transposed
    one.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    heads = [m for m in model.modules() if type(m) is nn.Linear and id(m.weight) in tables]
    for head in heads:
        head.forward = partial(_by_rows, head)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for head in heads:
            del head.forward


def _by_rows(head: nn.Linear, hidden: Tensor) -> Tensor:
    rows = functional.linear(hidden.flatten(0, -2), head.weight, head.bias)
    return rows.unflatten(0, hidden.shape[:-1])


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the exporter's notes on operators of packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def reason_of(error: BaseException) -> str:
    """Return the first line of the error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0]
