"""Tidy a traced graph: each weight once, as it is read, and nothing of the machine it was made on.

Where a weight is transposed when the file is loaded, onnxruntime would hold a copy in memory.
"""

import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

DATA_NAME = "model.onnx.data"
"""The name of the file with weights that several files read."""

LEAST_APART_BYTES = 1024
"""Bytes from which a weight lies there: smaller ones may be sizes that a graph is optimised by."""


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


def add_cache_branch(model: Any, flag_name: str) -> None:
    """Give a decoder's step an input `flag_name` (one truth value), in place.

    If it is false, past keys and values are not read: the decoder's own are cut to no token, and
    the encoder's, ``present.N.encoder.key`` and ``.value``, are computed; else these are inputs.
    """
    import onnx_ir

    graph = model.graph
    flag = _input(graph, flag_name, onnx_ir.DataType.BOOL, [1])
    _cut_own(graph, flag)
    for value in [out for out in graph.outputs if ".encoder." in out.name]:
        name = value.name.replace("present.", "past_key_values.")
        past = _input(graph, name, value.dtype, list(value.shape))
        _compute_unless(graph, flag, past, value)


def _input(graph: Any, name: str, dtype: Any, shape: list[Any]) -> Any:
    """Add an input to `graph` and return it."""
    import onnx_ir

    value = onnx_ir.Value(name=name, shape=onnx_ir.Shape(shape), type=onnx_ir.TensorType(dtype))
    graph.inputs.append(value)
    return value


def _cut_own(graph: Any, flag: Any) -> None:
    """Read the decoder's own past as far as `flag` says: whole, or no token of it."""
    import onnx_ir

    def constant(name: str, number: int) -> Any:
        value = onnx_ir.Value(name=f"{flag.name}.{name}")
        value.const_value = onnx_ir.tensor(np.array([number]), name=value.name)
        value.shape, value.type = onnx_ir.Shape([1]), onnx_ir.TensorType(onnx_ir.DataType.INT64)
        graph.register_initializer(value)
        return value

    first, axis, most = constant("first", 0), constant("axis", 2), constant("most", sys.maxsize)
    cast = onnx_ir.node("Cast", [flag], {"to": onnx_ir.DataType.INT64})
    ends = onnx_ir.node("Mul", [cast.outputs[0], most])
    cuts = []
    for past in [value for value in graph.inputs if ".decoder." in value.name]:
        cut = onnx_ir.node("Slice", [past, first, ends.outputs[0], axis])
        cut.outputs[0].type, cut.outputs[0].shape = past.type, past.shape
        cuts.append((past, cut))
    for past, cut in cuts:
        readers = [use for use in past.uses() if use[0] is not cut]
        for node, index in readers:
            node.replace_input_with(index, cut.outputs[0])
    graph.insert_before(graph[0], [cast, ends, *(cut for _, cut in cuts)])


def _compute_unless(graph: Any, flag: Any, past: Any, value: Any) -> None:
    """Make what reads `value` read `past` where `flag` is true, and compute `value` only else."""
    import onnx_ir

    nodes = _only_for(graph, value)
    name, last = value.name, nodes[-1]
    same = onnx_ir.node("Identity", [past])
    same.outputs[0].name = f"{name}.past"
    chosen = onnx_ir.node("If", [flag])
    (out,) = chosen.outputs
    out.type, out.shape = value.type, value.shape
    graph.insert_after(last, chosen)
    onnx_ir.convenience.replace_all_uses_with(value, out, replace_graph_outputs=True)
    value.name, out.name = f"{name}.computed", name
    graph.remove(nodes)
    branches = {
        "then_branch": onnx_ir.Graph([], same.outputs, nodes=[same], name=f"{name}.kept"),
        "else_branch": onnx_ir.Graph([], [value], nodes=nodes, name=f"{name}.new"),
    }
    for key, branch in branches.items():
        chosen.attributes.add(onnx_ir.AttrGraph(key, branch))


def _only_for(graph: Any, value: Any) -> list[Any]:
    """Return the nodes, in order, whose outputs serve `value` alone."""
    found = {value.producer()}
    for node in reversed(list(graph)):
        readers = {use[0] for out in node.outputs for use in out.uses()}
        is_output = any(out.is_graph_output() for out in node.outputs)
        if readers and readers <= found and not is_output:
            found.add(node)
    return [node for node in graph if node in found]


def save_together(models: Mapping[str, Any], folder: Path) -> None:
    """Write models of the package onnx_ir by the names of their files.

    Weights that are equal lie once, in a file next to them.
    """
    import onnx_ir
    from onnx_ir.external_data import convert_tensors_to_external

    values = [
        value
        for model in models.values()
        for value in model.graph.initializers.values()
        if value.const_value.nbytes >= LEAST_APART_BYTES
    ]
    keys = [_content(value.const_value) for value in values]
    once = dict(zip(keys, (value.const_value for value in values), strict=True))
    stored = convert_tensors_to_external(list(once.values()), folder, DATA_NAME)
    places = dict(zip(once, stored, strict=True))
    for key, value in zip(keys, values, strict=True):
        place = places[key]
        value.const_value = onnx_ir.ExternalTensor(
            place.location,
            place.offset,
            place.length,
            place.dtype,
            shape=place.shape,
            name=value.name,
            base_dir=folder,
        )
    for name, model in models.items():
        onnx_ir.save(model, folder / name)


def _content(tensor: Any) -> tuple[Any, ...]:
    """Return a key that equal tensors have in common."""
    return tensor.dtype, tuple(tensor.shape), sha256(tensor.tobytes()).digest()
