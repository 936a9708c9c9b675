"""Write a model for ExecuTorch, whose products its XNNPACK backend computes.

Needs `sharetune[executorch]`. The file is one forward pass over one example, without a cache:
ExecuTorch sets memory aside for the largest input when the file is written.
"""

import copy
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import EXPORTS, FOLDER, Needs, Written
from sharetune.trainers.exports.onnx_tracing import Logits, free_axes, plain_copy, reason_of
from sharetune.trainers.models.positions import most_tokens
from sharetune.trainers.models.sample_inputs import Inputs, samples

FILE_NAME = "model.pte"
"""The name of the file in the export's folder."""

MOST_TOKENS = 512
"""Tokens of the longest text that a file takes, if the model does not read fewer."""

TOLERANCE = 1e-4
"""Largest difference of logits: products are summed in another order."""


@EXPORTS.register("executorch")
@Needs(floats=True, packages=("executorch",))
def export_executorch(model: PreTrainedModel, folder: Path) -> Written:
    """a .pte file for ExecuTorch with XNNPACK: one example at a time, each shared tensor once"""
    (folder / FILE_NAME).write_bytes(_program(model))
    copy.deepcopy(model.config).save_pretrained(folder)
    running = cache(_method)
    return Written(
        reload=lambda path: partial(_answer, running(path)),
        load="from executorch.runtime import Runtime\n"
        f'model = Runtime.get().load_program("{FOLDER}/{FILE_NAME}").load_method("forward")',
        tolerance=TOLERANCE,
        weights=FILE_NAME,
        note=f"It takes one example at a time{_length_of(model)}.",
    )


def _program(model: PreTrainedModel) -> bytes:
    """Return the file's bytes. Raises :class:`ModelError` if the model cannot be traced."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    inputs = {name: tensor[:1] for name, tensor in samples(model)[0].items()}
    dims = {name: Dim(name, min=2, max=_most(model)) for name in _axis_names(inputs)}
    shapes = tuple(
        {axis: dims[name] for axis, name in free_axes(key, tensor).items()}
        for key, tensor in inputs.items()
    )
    with plain_copy(model) as plain, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            traced = torch.export.export(
                Logits(plain, list(inputs)).eval(),
                tuple(inputs.values()),
                dynamic_shapes={"tensors": shapes},
                strict=False,
            )
            lowered = to_edge_transform_and_lower(traced, partitioner=[XnnpackPartitioner()])
            program = lowered.to_executorch()
        except Exception as error:  # the compiler has no class of errors of its own
            raise ModelError(
                f"{type(model).__name__} cannot be written for ExecuTorch: {reason_of(error)}",
                "export as onnx, or as code",
            ) from error
    return bytes(program.buffer)


def _axis_names(inputs: Inputs) -> set[str]:
    return {axis for name, tensor in inputs.items() for axis in free_axes(name, tensor).values()}


def _most(model: PreTrainedModel) -> int:
    return min(most_tokens(model) or MOST_TOKENS, MOST_TOKENS)


def _length_of(model: PreTrainedModel) -> str:
    names = _axis_names(samples(model)[0])
    return f", of 2 to {_most(model)} tokens" if names - {"batch"} else ""


def _method(folder: Path) -> Any:
    from executorch.runtime import Runtime

    return Runtime.get().load_program(folder / FILE_NAME).load_method("forward")


def _answer(method: Any, inputs: Inputs) -> Tensor:
    """Return the logits of a batch, one example after the other."""
    rows = zip(*(tensor.split(1) for tensor in inputs.values()), strict=True)
    return torch.cat([method.execute(row)[0].clone() for row in rows])
