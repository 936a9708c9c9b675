"""Write tensors, sizes and vocabulary into a GGUF file, in one of its formats of numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sharetune.trainers.exports.gguf_layers import LAYERS, Layers, rope_type
from sharetune.trainers.exports.gguf_vocabulary import Vocabulary
from sharetune.trainers.measuring.sizes import saved_tensors


@dataclass(frozen=True)
class Numbers:
    """A format of numbers: its name and its file's type in gguf, and the bits of a matrix entry.

    `block` numbers of a row are rounded together; rows of other lengths are stored in 16 bits.
    `embedding` is the format of embeddings and the output layer, if not the same. Log-probabilities
    may differ by `tolerance`: at most if it `is_exact`, so that the same tokens are generated, else
    on average, in standard deviations.
    """

    name: str
    file_type: str
    bits: float
    tolerance: float
    is_exact: bool = False
    block: int = 1
    embedding: "Numbers | None" = None

    def of(self, name: str, tensor: Tensor) -> "Numbers":
        """Return the format of one tensor: vectors are always in full precision."""
        if tensor.dim() == 1:
            return F32
        is_outer = "embed_tokens" in name or "lm_head" in name
        own = self.embedding if is_outer and self.embedding else self
        return F16 if tensor.shape[-1] % own.block else own


F32 = Numbers("F32", "ALL_F32", 32, 1e-3, is_exact=True)
F16 = Numbers("F16", "MOSTLY_F16", 16, 0.1)
BF16 = Numbers("BF16", "MOSTLY_BF16", 16, 0.1)
Q8_0 = Numbers("Q8_0", "MOSTLY_Q8_0", 8.5, 0.25, block=32)
Q4_0 = Numbers("Q4_0", "MOSTLY_Q4_0", 4.5, 0.9, block=32, embedding=Q8_0)


def planned_bytes(model: PreTrainedModel, numbers: Numbers) -> int:
    """Return the bytes of the model's tensors, each once, in this format."""
    return int(
        sum(numbers.of(name, tensor).bits * tensor.numel() for name, tensor in saved_tensors(model))
        // 8
    )


def header_bytes(file: Path) -> int:
    """Return the bytes of a file in front of its tensors: sizes, vocabulary, names."""
    import gguf

    return int(gguf.GGUFReader(file).data_offset)


def write_file(
    path: Path, dense: PreTrainedModel, layers: Layers, vocabulary: Vocabulary, numbers: Numbers
) -> int:
    """Write a `dense` model, of which only `layers` are stored; return the numbers written."""
    import gguf

    writer = gguf.GGUFWriter(path, layers.architecture)
    _add_sizes(writer, dense.config, layers)
    writer.add_file_type(getattr(gguf.LlamaFileType, numbers.file_type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary.add_to(writer)
    names = gguf.get_tensor_name_map(_kind(layers), len(layers.tensors))
    count = 0
    for name, tensor in _tensors(dense, layers):
        own = numbers.of(name, tensor)
        count += tensor.numel()
        kind = gguf.GGMLQuantizationType[own.name]
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        values = tensor.detach().float().contiguous().numpy()
        assert target is not None
        writer.add_tensor(target, gguf.quantize(values, kind), raw_dtype=kind)
    if rope_type(dense.config) == "llama3":
        writer.add_tensor("rope_freqs.weight", _rope_factors(dense.config, layers).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return count


def _rope_factors(config: Any, layers: Layers) -> Tensor:
    """Return by what each frequency of plain rotary positions is divided: (head size / 2,)."""
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    powers = torch.arange(0, layers.head_size, 2).float() / layers.head_size
    return float(config.rope_parameters["rope_theta"]) ** -powers / scaled


def _kind(layers: Layers) -> Any:
    """Return the family's architecture among gguf's."""
    import gguf

    found = gguf.MODEL_ARCH_NAMES.items()
    return next(kind for kind, name in found if name == layers.family.architecture)


def _add_sizes(writer: Any, config: Any, layers: Layers) -> None:
    def of_layers(numbers: tuple[int, ...]) -> Any:
        return numbers[0] if len(set(numbers)) == 1 else list(numbers)

    writer.add_block_count(len(layers.tensors))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(of_layers(layers.neurons))
    writer.add_head_count(of_layers(layers.heads))
    writer.add_head_count_kv(of_layers(layers.groups))
    writer.add_key_length(layers.head_size)
    writer.add_value_length(layers.head_size)
    writer.add_rope_dimension_count(layers.head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    if rope_type(config) == "linear":
        writer.add_rope_scaling_type("linear")
        writer.add_rope_scaling_factor(float(config.rope_parameters["factor"]))
    if layers.runs > 1:
        writer.add_uint32(f"{layers.architecture}.num_loops", layers.runs)
        writer.add_bool(f"{layers.architecture}.skip_loop_final_norm", True)


def _tensors(dense: PreTrainedModel, layers: Layers) -> Iterator[tuple[str, Tensor]]:
    """Yield the names, as transformers has them, and tensors, as llama.cpp reads them."""
    stack = f"{LAYERS}."
    for name, tensor in saved_tensors(dense):
        if not name.startswith(stack):
            yield name, _shifted(name, tensor, layers)
    for index, own in enumerate(layers.tensors):
        for name, tensor in own.items():
            if layers.has_pairs and (".q_proj." in name or ".k_proj." in name):
                tensor = _in_pairs(tensor, layers.head_size)
            yield f"{stack}{index}.{name}", _shifted(name, tensor, layers)


def _in_pairs(tensor: Tensor, size: int) -> Tensor:
    """Put rows half a head of `size` rows apart next to each other."""
    return tensor.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2)


def _shifted(name: str, tensor: Tensor, layers: Layers) -> Tensor:
    return tensor + layers.family.norm_offset if name.endswith("norm.weight") else tensor
