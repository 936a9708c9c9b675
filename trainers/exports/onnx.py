"""Write ONNX files with each shared tensor once, for onnxruntime. Needs `sharetune[onnx]`.

A decoder is written as one step with a KV cache, an encoder with a decoder that writes text as two
files, every other model as one forward pass.
"""

import copy
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sharetune.trainers.exports.base import (
    EXPORTS,
    Answer,
    Needs,
    Uses,
    Written,
    of_texts,
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
from sharetune.trainers.exports.onnx_encoder_decoder import (
    DECODER,
    ENCODER,
    EncoderDecoder,
    has_encoder_steps,
    write_encoder_decoder,
)
from sharetune.trainers.exports.onnx_session import load_lines, open_session
from sharetune.trainers.exports.onnx_tracing import Graph, Logits, free_axes, traced
from sharetune.trainers.measuring.sizes import parameters
from sharetune.trainers.models.sample_inputs import Inputs, samples

FILE_NAME = "model.onnx"
"""The name of the file in the export's folder."""

ONE_FILE_BYTES = 64e6
"""Bytes of weights up to which they are in the file. Others lie next to it: onnxruntime reads them
where they are, and a protobuf message ends at 2 GiB."""

PASS_TOLERANCE, STEPS_TOLERANCE = 1e-4, 1e-3
"""Largest difference of logits, without tokens to compare, and with 64 that must be the same."""


@EXPORTS.register("onnx")
@Needs(floats=True, packages=("onnx", "onnxruntime", "onnxscript"))
def export_onnx(model: PreTrainedModel, folder: Path) -> Written:
    """files for onnxruntime, each shared tensor stored once; what writes text has a KV cache"""
    if has_encoder_steps(model):
        write_encoder_decoder(model, folder)
        written = _in_two_sessions()
    else:
        by_steps = write_onnx(model, folder)
        load, weights = load_lines([FILE_NAME]), f"{FILE_NAME}*"
        written = in_session(model, cache(session), by_steps=by_steps, load=load, weights=weights)
    copy.deepcopy(model.config).save_pretrained(folder)
    return written


def _in_two_sessions() -> Written:
    @cache
    def running(path: Path, threads: int | None = None) -> EncoderDecoder:
        files = (path / name for name in (ENCODER, DECODER))
        return EncoderDecoder(*(open_session(file, threads=threads) for file in files))

    return Written(
        reload=lambda path: running(path).answer,
        load=load_lines([ENCODER, DECODER]),
        tolerance=STEPS_TOLERANCE,
        timed=lambda path, inputs, threads: running(path, threads).uses(inputs),
        weights="*.onnx*",
        greedy=lambda path: running(path).greedy,
    )


def session(folder: Path, threads: int | None = None) -> Any:
    """Return a session of onnxruntime for the one file of a folder."""
    return open_session(folder / FILE_NAME, threads=threads)


def write_onnx(model: PreTrainedModel, folder: Path) -> bool:
    """Write the file into `folder`; return whether it is a step with a cache, or a whole pass.

    Raises :class:`ModelError` if the model cannot be traced.
    """
    by_steps = has_steps(model)
    program = traced(model, _step_of(model) if by_steps else _pass_of(model))
    large = 4 * parameters([model]) > ONE_FILE_BYTES
    program.save(folder / FILE_NAME, external_data=large)
    return by_steps


def in_session(
    model: PreTrainedModel,
    running: Callable[..., Any],
    *,
    by_steps: bool,
    load: str,
    weights: str,
) -> Written:
    """Return how a file is compared and timed that a session answers with: `running`, of its folder
    and of the number of threads, if this is not the runtime's to choose."""
    return Written(
        reload=lambda path: Steps(running(path)).answer if by_steps else _passing(running(path)),
        load=load,
        tolerance=STEPS_TOLERANCE if by_steps else PASS_TOLERANCE,
        timed=lambda path, inputs, threads: (
            Steps(running(path, threads)).uses(inputs)
            if by_steps
            else _pass_uses(running(path, threads), inputs)
        ),
        weights=weights,
        compared=(lambda _: with_positions(model)) if by_steps else (lambda answer: answer),
        greedy=(lambda path: of_texts(Steps(running(path)).greedy)) if by_steps else None,
    )


def _pass_of(model: PreTrainedModel) -> Graph:
    inputs = samples(model)[0]
    axes = tuple(free_axes(name, tensor) for name, tensor in inputs.items())
    return Graph(Logits, inputs, axes, ["logits"])


def _step_of(model: PreTrainedModel) -> Graph:
    inputs = step_inputs(model)
    return Graph(Step, inputs, tuple(map(step_axes, inputs)), step_outputs(list(inputs)))


def _pass_uses(running: Any, inputs: Inputs) -> Uses:
    """Return one pass over one example.

    Inputs of the file that `inputs` does not hold are ones for a mask, else zeros.
    """
    given = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
    first = next(iter(given.values()))
    for name in (node.name for node in running.get_inputs()):
        if name not in given:
            given[name] = (np.ones_like if "mask" in name else np.zeros_like)(first)
    return {"pass": partial(running.run, ["logits"], given)}


def _passing(running: Any) -> Answer:
    def answer(inputs: Inputs) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(running.run(["logits"], arrays)[0])

    return answer
