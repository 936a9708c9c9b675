"""Write an ONNX file with each shared tensor once, for onnxruntime. Needs `sharetune[onnx]`."""

import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import EXPORTS, FOLDER, Answer, Needs, Written, answering
from sharetune.trainers.measuring.sizes import parameters
from sharetune.trainers.models.modules import products_apart
from sharetune.trainers.models.sample_inputs import Inputs, samples

FILE_NAME = "model.onnx"
"""The name of the file in the export's folder."""

NEEDED_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
"""Packages that writing and running ONNX need."""

ONE_FILE_BYTES = 1.9e9
"""Bytes of weights up to which they are in the file: a protobuf message ends at 2 GiB."""

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


@EXPORTS.register("onnx")
@Needs(floats=True)
def export_onnx(model: PreTrainedModel, folder: Path) -> Written:
    """an ONNX file for onnxruntime, each shared tensor stored once"""
    check_packages()
    program = _traced(model, samples(model)[0])
    _clean(program.model)
    large = 4 * parameters([model]) > ONE_FILE_BYTES
    program.save(folder / FILE_NAME, external_data=large)
    copy.deepcopy(model.config).save_pretrained(folder)
    return Written(
        reload=_reload,
        load=f'import onnxruntime\nmodel = onnxruntime.InferenceSession("{FOLDER}/{FILE_NAME}")',
        tolerance=1e-4,
        weights=f"{FILE_NAME}*",
    )


def check_packages() -> None:
    """Raise :class:`ModelError` if a package that ONNX export needs is not installed."""
    missing = [name for name in NEEDED_PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"the onnx format needs {', '.join(missing)}", "pip install 'sharetune[onnx]'"
        )


def _traced(model: PreTrainedModel, inputs: Inputs) -> Any:
    """Return the traced model, with dynamic batch size and text length."""
    axes = tuple(_free_axes(name, tensor) for name, tensor in inputs.items())
    plain = copy.deepcopy(model).eval()
    plain.config.use_cache = False
    # gives fewer nodes than fused attention, and is the only one with which T5 can be traced
    plain.set_attn_implementation("eager")
    with products_apart(plain), _without_warnings():
        try:
            return torch.onnx.export(
                Logits(plain, list(inputs)).eval(),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_shapes=(axes,),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelError(
                f"{type(model).__name__} cannot be written as ONNX: {_reason(error)}",
                "export as dense, and convert that with optimum",
            ) from error


def _clean(graph: object) -> None:
    """Remove the names of this machine's source files, and merge equal constants.

    The exporter may have transposed a shared matrix once for every layer.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, DeduplicateInitializersPass

    ClearMetadataAndDocStringPass()(graph)
    DeduplicateInitializersPass(size_limit=sys.maxsize)(graph)


def _free_axes(name: str, tensor: Tensor) -> dict[int, torch.export.Dim]:
    axes = {0: torch.export.Dim("batch")} if len(tensor) > 1 else {}
    if tensor.dim() == 2 and not tensor.is_floating_point():
        axes[1] = torch.export.Dim(AXIS_NAMES.get(name, "sequence"))
    return axes


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


def onnx_run(folder: Path, inputs: Inputs, *, threads: int) -> Callable[[], object]:
    """Return a function that runs the exported model once on `inputs`, on `threads` threads.

    Inputs of the file that `inputs` does not hold are ones for a mask, else zeros.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(folder / FILE_NAME, options)
    given = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
    first = next(iter(given.values()))
    for name in (node.name for node in session.get_inputs()):
        if name not in given:
            given[name] = (np.ones_like if "mask" in name else np.zeros_like)(first)
    return partial(session.run, ["logits"], given)


def _reload(folder: Path) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE_NAME)

    def answer(inputs: Inputs) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(session.run(["logits"], arrays)[0])

    return answer


def _reason(error: BaseException) -> str:
    """Return the first line of the error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0]
