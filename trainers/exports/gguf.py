"""Write a decoder of the Llama kind as a GGUF file for llama.cpp. Needs `sharetune[gguf]`.

llama.cpp keeps weights once for a whole stack that runs again (its architecture ``nanbeige``), and
takes layers of unequal width (``deci``). Every other plan is written layer by layer, under the
family's own architecture.
"""

import copy
from functools import cache
from pathlib import Path

import torch
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import (
    EXPORTS,
    FOLDER,
    Needs,
    Written,
    largest_difference,
    of_texts,
    relative_difference,
)
from sharetune.trainers.exports.dense import widen
from sharetune.trainers.exports.gguf_layers import Layers, family_of
from sharetune.trainers.exports.gguf_vocabulary import Vocabulary
from sharetune.trainers.exports.gguf_writing import (
    BF16,
    F16,
    F32,
    Q4_0,
    Q8_0,
    Numbers,
    header_bytes,
    planned_bytes,
    write_file,
)
from sharetune.trainers.exports.llama_cpp import LlamaCpp, Serving, last_log_probabilities
from sharetune.trainers.models.sharing import is_shared, materialize_

FILE_NAME = "model.gguf"
"""The name of the file in the export's folder."""

PACKAGES = ("gguf", "xllamacpp")
"""Packages that write the file and run it."""

OWN = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}
"""The format of a model's own numbers."""


@EXPORTS.register("gguf")
@Needs(floats=True, packages=PACKAGES)
def export_gguf(model: PreTrainedModel, folder: Path) -> Written:
    """a file for llama.cpp, in the model's own numbers; a stack that runs again is stored once"""
    return write_gguf(model, folder, OWN[model.dtype])


@EXPORTS.register("gguf-f16")
@Needs(floats=True, packages=PACKAGES)
def export_f16(model: PreTrainedModel, folder: Path) -> Written:
    """as gguf, with matrices in 16 bits"""
    return write_gguf(model, folder, F16)


@EXPORTS.register("gguf-bf16")
@Needs(floats=True, packages=PACKAGES)
def export_bf16(model: PreTrainedModel, folder: Path) -> Written:
    """as gguf, with matrices in 16 bits, of float32's range"""
    return write_gguf(model, folder, BF16)


@EXPORTS.register("gguf-q8_0")
@Needs(floats=True, packages=PACKAGES)
def export_q8_0(model: PreTrainedModel, folder: Path) -> Written:
    """as gguf, with matrices in 8 bits and a scale for 32 numbers"""
    return write_gguf(model, folder, Q8_0)


@EXPORTS.register("gguf-q4_0")
@Needs(floats=True, packages=PACKAGES)
def export_q4_0(model: PreTrainedModel, folder: Path) -> Written:
    """as gguf, with matrices in 4 bits and a scale for 32 numbers; embeddings in 8 bits"""
    return write_gguf(model, folder, Q4_0)


def write_gguf(model: PreTrainedModel, folder: Path, numbers: Numbers) -> Written:
    """Write the file into `folder`, with the tokenizer that lies there, if any.

    Raises :class:`ModelError` for a model that llama.cpp cannot run.
    """
    family = family_of(model)
    dense = _with_layers_apart(model)
    note = "" if family.is_llama or Layers.of(dense, family).are_equal else widen(dense)
    layers = Layers.of(dense, family).in_blocks(numbers.block)
    vocabulary = Vocabulary.of(folder, model.config.vocab_size)
    count = write_file(folder / FILE_NAME, dense, layers, vocabulary, numbers)

    @cache
    def running(path: Path) -> LlamaCpp:
        found = LlamaCpp(path / FILE_NAME, vocabulary.size, plain=vocabulary.plain)
        vocabulary.check(found)
        return found

    return Written(
        reload=lambda path: running(path).answer,
        load="from xllamacpp import CommonParams, Server\nparams = CommonParams()\n"
        f'params.model.path = "{FOLDER}/{FILE_NAME}"\nmodel = Server(params)',
        tolerance=numbers.tolerance,
        note=note,
        compared=last_log_probabilities,
        timed=lambda path, inputs, threads: LlamaCpp(
            path / FILE_NAME,
            vocabulary.size,
            plain=vocabulary.plain,
            serving=Serving.timed(inputs["input_ids"].shape[1], threads),
        ).uses(inputs["input_ids"][0].tolist()),
        distance=largest_difference if numbers.is_exact else relative_difference,
        greedy=(lambda path: of_texts(running(path).greedy)) if numbers.is_exact else None,
        weights=FILE_NAME,
        planned=planned_bytes(model, numbers) + header_bytes(folder / FILE_NAME),
        is_once=count <= 1.01 * sum(p.numel() for p in model.parameters()),
    )


def _with_layers_apart(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy whose layers hold their own weights."""
    dense = materialize_(copy.deepcopy(model))
    if is_shared(dense):
        raise ModelError(
            f"llama.cpp cannot reuse what other layers compute: {dense.sharing.plan}",
            "export as code or onnx",
        )
    return dense
