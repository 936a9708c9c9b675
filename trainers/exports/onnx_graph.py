"""Tidy a traced graph: each weight once, as it is read, and nothing of the machine it was made on.

Where a weight is transposed when the file is loaded, onnxruntime would hold a copy in memory.
"""

import sys
from typing import Any

import numpy as np


def store_once(model: Any) -> None:
    """Transpose stored weights, merge equal ones, and remove the names of source files, in place.

    `model` is one of the package onnx_ir.
    """
    from onnx_ir.passes.common import (
        ClearMetadataAndDocStringPass,
        DeduplicateInitializersPass,
        RemoveUnusedNodesPass,
    )

    ClearMetadataAndDocStringPass()(model)
    _transpose_stored(model.graph)
    RemoveUnusedNodesPass()(model)
    DeduplicateInitializersPass(size_limit=sys.maxsize)(model)


def _transpose_stored(graph: Any) -> None:
    """Store each weight transposed that is only read so."""
    for weight in list(graph.initializers.values()):
        readers = [node for node, _ in weight.uses()]
        orders = {
            tuple(node.attributes["perm"].as_ints()) for node in readers if _is_transpose(node)
        }
        if len(orders) == 1 and all(map(_is_transpose, readers)) and not weight.is_graph_output():
            _replace(graph, weight, readers, *orders)


def _is_transpose(node: Any) -> bool:
    return bool(node.op_type == "Transpose" and "perm" in node.attributes)


def _replace(graph: Any, weight: Any, readers: list[Any], order: tuple[int, ...]) -> None:
    """Put a transposed `weight` in the place of what `readers` return."""
    import onnx_ir

    name = f"{weight.name}.transposed"
    values = np.ascontiguousarray(weight.const_value.numpy().transpose(order))
    tensor = onnx_ir.tensor(values, name=name)
    stored = onnx_ir.Value(name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype))
    stored.const_value = tensor
    graph.register_initializer(stored)
    for reader in readers:
        onnx_ir.convenience.replace_all_uses_with(reader.outputs[0], stored)
