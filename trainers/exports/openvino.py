"""Write a model for OpenVINO, by way of ONNX, with each shared tensor once.

Needs `sharetune[openvino]`.
"""

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from sharetune.trainers.exports.base import EXPORTS, FOLDER, Needs, Written
from sharetune.trainers.exports.onnx import FILE_NAME as ONNX_NAME
from sharetune.trainers.exports.onnx import in_session, write_onnx

FILE_NAME = "openvino_model.xml"
"""The name of the graph's file, which Optimum looks for; weights lie in one ending in ``.bin``."""

DEVICE = "CPU"
"""The device that runs the file when it is compared: each machine has it."""

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
"""Settings with which OpenVINO computes in the file's precision, as it does not by default where
the processor multiplies in 16 bits."""


@EXPORTS.register("openvino")
@Needs(floats=True, packages=("onnx", "onnxscript", "openvino"))
def export_openvino(model: PreTrainedModel, folder: Path) -> Written:
    """a file for OpenVINO, each shared tensor stored once; a decoder has a KV cache"""
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
        by_steps = write_onnx(model, Path(scratch))
        converted = openvino.convert_model(Path(scratch) / ONNX_NAME)
        openvino.save_model(converted, folder / FILE_NAME, compress_to_fp16=False)
    model.config.save_pretrained(folder)
    return in_session(
        model,
        cache(Session.of),
        by_steps=by_steps,
        load=f'import openvino\nmodel = openvino.Core().compile_model("{FOLDER}/{FILE_NAME}")',
        weights="*.bin",
    )


@dataclass(frozen=True)
class Node:
    """An input: its name, its shape with texts for free axes, and its type as onnxruntime says."""

    name: str
    shape: list[int | str]
    type: str


@dataclass(frozen=True)
class Session:
    """A compiled model that is asked as a session of onnxruntime is."""

    compiled: Any

    @classmethod
    def of(cls, folder: Path, threads: int | None = None) -> "Session":
        """Compile the file in a folder, to compute in its own precision.

        With `threads` it is for timing: on that many, and as precisely as OpenVINO chooses.
        """
        import openvino

        settings = EXACT if threads is None else {"INFERENCE_NUM_THREADS": threads}
        return cls(openvino.Core().compile_model(folder / FILE_NAME, DEVICE, settings))

    def get_inputs(self) -> list[Node]:
        """Return the inputs in order."""
        return [
            Node(
                port.any_name,
                [axis.get_length() if axis.is_static else "free" for axis in port.partial_shape],
                f"tensor({port.element_type.to_dtype().name})",
            )
            for port in self.compiled.inputs
        ]

    def run(self, names: list[str] | None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of these names; of all, in order, for None."""
        found = self.compiled({name: np.ascontiguousarray(x) for name, x in given.items()})
        return [found[name] for name in names or [port.any_name for port in self.compiled.outputs]]
