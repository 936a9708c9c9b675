"""Write an ONNX file with each shared tensor once, for onnxruntime. Needs `sharetune[onnx]`.

A decoder is written as one step with a KV cache, every other model as one forward pass.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import (
    EXPORTS,
    FOLDER,
    Answer,
    Needs,
    Written,
    answering,
)
from sharetune.trainers.exports.onnx_cache import (
    Step,
    Steps,
    has_steps,
    step_axes,
    step_inputs,
    step_outputs,
    with_positions,
)
from sharetune.trainers.exports.onnx_graph import store_once
from sharetune.trainers.measuring.sizes import parameters
from sharetune.trainers.models.modules import products_apart
from sharetune.trainers.models.sample_inputs import Inputs, samples

FILE_NAME = "model.onnx"
"""The name of the file in the export's folder."""

ONE_FILE_BYTES = 64e6
"""Bytes of weights up to which they are in the file. Others lie next to it: onnxruntime reads them
where they are, and a protobuf message ends at 2 GiB."""

LOAD = f"""import onnxruntime
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.disable_prepacking", "1")  # else weights are held twice
model = onnxruntime.InferenceSession("{FOLDER}/{FILE_NAME}", options)"""
"""Python code that loads the file as :func:`session` does."""

AXIS_NAMES = {"decoder_input_ids": "decoder_sequence"}
"""Names for the dynamic text length of inputs that may differ in it from the others."""


PASS_TOLERANCE, STEPS_TOLERANCE = 1e-4, 1e-3
"""Largest difference of logits, without tokens to compare, and with 64 that must be the same."""


class Logits(nn.Module):
    """A model as a function of unnamed tensors, without a KV cache."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits for the tensors of `names`."""
        return answering(self.model)(dict(zip(self.names, tensors, strict=True)))


@EXPORTS.register("onnx")
@Needs(floats=True)
def export_onnx(model: PreTrainedModel, folder: Path) -> Written:
    """an ONNX file for onnxruntime, each shared tensor stored once; a decoder has a KV cache"""
    check_packages()
    by_steps = write_onnx(model, folder)
    copy.deepcopy(model.config).save_pretrained(folder)
    weights = f"{FILE_NAME}*"
    return in_session(model, cache(session), by_steps=by_steps, load=LOAD, weights=weights)


def write_onnx(model: PreTrainedModel, folder: Path) -> bool:
    """Write the file into `folder`; return whether it is a step with a cache, or a whole pass.

    Raises :class:`ModelError` if the model cannot be traced.
    """
    by_steps = has_steps(model)
    program = _traced(model, _step_of(model) if by_steps else _pass_of(model))
    store_once(program.model)
    large = 4 * parameters([model]) > ONE_FILE_BYTES
    program.save(folder / FILE_NAME, external_data=large)
    return by_steps


def in_session(
    model: PreTrainedModel,
    running: Callable[[Path], Any],
    *,
    by_steps: bool,
    load: str,
    weights: str,
) -> Written:
    """Return how files are compared that a session, `running` from its folder, answers with."""
    return Written(
        reload=lambda path: Steps(running(path)).answer if by_steps else _passing(running(path)),
        load=load,
        tolerance=STEPS_TOLERANCE if by_steps else PASS_TOLERANCE,
        weights=weights,
        compared=(lambda _: with_positions(model)) if by_steps else (lambda answer: answer),
        greedy=(lambda path: Steps(running(path)).greedy) if by_steps else None,
    )


@dataclass(frozen=True)
class Graph:
    """A function to trace: the one that `kind` makes of the model, its inputs with their free axes,
    and the names of its outputs."""

    kind: Callable[[PreTrainedModel, list[str]], nn.Module]
    inputs: Inputs
    axes: tuple[dict[int, str], ...]
    outputs: list[str]


def _pass_of(model: PreTrainedModel) -> Graph:
    inputs = samples(model)[0]
    axes = tuple(_free_axes(name, tensor) for name, tensor in inputs.items())
    return Graph(Logits, inputs, axes, ["logits"])


def _step_of(model: PreTrainedModel) -> Graph:
    inputs = step_inputs(model)
    return Graph(Step, inputs, tuple(map(step_axes, inputs)), step_outputs(list(inputs)))


def check_packages(
    format: str = "onnx", needed: Sequence[str] = ("onnx", "onnxruntime", "onnxscript")
) -> None:
    """Raise :class:`ModelError` if a package that the `format` needs is not installed."""
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"the {format} format needs {', '.join(missing)}", f"pip install 'sharetune[{format}]'"
        )


def _traced(model: PreTrainedModel, graph: Graph) -> Any:
    """Return the traced model, with dynamic batch size and text length."""
    plain = copy.deepcopy(model).eval()
    plain.config.use_cache = False
    # gives fewer nodes than fused attention, and is the only one with which T5 can be traced
    plain.set_attn_implementation("eager")
    names = list(graph.inputs)
    with products_apart(plain), _embeddings_read_as_they_are(plain), _without_warnings():
        try:
            return torch.onnx.export(
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
                f"{type(model).__name__} cannot be written as ONNX: {_reason(error)}",
                "export as dense, and convert that with optimum",
            ) from error


def _free_axes(name: str, tensor: Tensor) -> dict[int, str]:
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


def session(folder: Path, *, threads: int | None = None) -> Any:
    """Return a session of onnxruntime that holds each weight once, as the file does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(folder / FILE_NAME, options)


def onnx_run(folder: Path, inputs: Inputs, *, threads: int) -> Callable[[], object]:
    """Return a function that runs the exported model once on `inputs`, on `threads` threads.

    Inputs of the file that `inputs` does not hold are ones for a mask, else zeros; a cache is
    empty.
    """
    running = session(folder, threads=threads)
    given = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
    first = next(iter(given.values()))
    given |= Steps(running).empty(len(first))
    for name in (node.name for node in running.get_inputs()):
        if name not in given:
            given[name] = (np.ones_like if "mask" in name else np.zeros_like)(first)
    return partial(running.run, ["logits"], given)


def _passing(running: Any) -> Answer:
    def answer(inputs: Inputs) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(running.run(["logits"], arrays)[0])

    return answer


def _reason(error: BaseException) -> str:
    """Return the first line of the error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0]
