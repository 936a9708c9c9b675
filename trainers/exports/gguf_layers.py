"""Find how llama.cpp can run a decoder's layers: which architecture, and how many are stored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from sharetune.spaces.errors import ModelError

LOOPED, UNEQUAL = "nanbeige", "deci"
"""Architectures of llama.cpp for stacks that run again, and for layers of unequal width."""

OTHER_FORMATS = "export as code, dense or onnx"
"""The hint for models that llama.cpp cannot run."""

LAYERS = "model.layers"
"""The path of the list of layers; a plan may leave one of them, which is no stack."""


@dataclass(frozen=True)
class Family:
    """How llama.cpp runs a family: its `architecture`, and what is changed on the way there.

    With `has_pairs` neighbouring rows of a head's q and k are rotated together, else those half a
    head apart. `norm_offset` is added to the weights of norms. The layers of one that `is_llama`
    may also run under ``nanbeige`` and ``deci``, which have pairs.
    """

    architecture: str
    activation: str = "silu"
    has_pairs: bool = False
    norm_offset: float = 0.0
    is_llama: bool = False
    needs_all_heads: bool = False


FAMILIES = {
    "llama": Family("llama", has_pairs=True, is_llama=True),
    "mistral": Family("llama", has_pairs=True, is_llama=True),
    "qwen2": Family("qwen2", is_llama=True, needs_all_heads=True),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma", activation="gelu_pytorch_tanh", norm_offset=1.0),
}
"""Families by the model type of transformers."""


ROPE_TYPES = ("default", "linear", "llama3")
"""Kinds of rotary positions that are written."""


def family_of(model: PreTrainedModel) -> Family:
    """Return the model's family. Raises :class:`ModelError` if llama.cpp runs it otherwise."""
    config = model.config
    family = FAMILIES.get(config.model_type)
    if family is None or not model.can_generate():
        raise ModelError(
            f"decoders of {', '.join(FAMILIES)} can be written for llama.cpp, and "
            f"{type(model).__name__} is none",
            OTHER_FORMATS,
        )
    windows = {"full_attention"} ^ set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) or 0
    for what, wrong in (
        (f"hidden_act: {config.hidden_act}", config.hidden_act != family.activation),
        (f"layer_types: {sorted(windows)}", bool(windows)),
        (f"sliding_window: {window}", 0 < window < config.max_position_embeddings),
        (f"rope_type: {rope_type(config)}", rope_type(config) not in ROPE_TYPES),
    ):
        if wrong:
            raise ModelError(f"the gguf format is not written for {what}", OTHER_FORMATS)
    return family


def rope_type(config: Any) -> str:
    """Return the kind of rotary positions."""
    return str((config.rope_parameters or {}).get("rope_type", "default"))


@dataclass(frozen=True)
class Layers:
    """The layers that are stored, with their tensors by name, and how often all of them `run`.

    `heads`, `groups` (of keys and values) and `neurons` have one number a layer.
    """

    family: Family
    tensors: Sequence[dict[str, Tensor]]
    runs: int
    head_size: int
    heads: tuple[int, ...]
    groups: tuple[int, ...]
    neurons: tuple[int, ...]

    @classmethod
    def of(cls, dense: PreTrainedModel, family: Family) -> "Layers":
        """Return the layers of a `dense` model, those that run again once if `family` can.

        Layers of unequal width that run again are stored each time: no architecture has both. So
        are those with biases elsewhere than at q, k and v.
        """
        modules = list(dense.get_submodule(LAYERS).children())
        tensors = [layer.state_dict() for layer in modules]
        size = int(modules[0].self_attn.head_dim)  # type: ignore[arg-type, union-attr]
        every = cls._at(family, tensors, size, len(tensors))
        once = cls._at(family, tensors, size, _period(tensors))
        return once if family.is_llama and once.are_equal and once.has_few_biases else every

    @classmethod
    def _at(
        cls, family: Family, tensors: Sequence[dict[str, Tensor]], size: int, period: int
    ) -> "Layers":
        """Return the first `period` layers, which run until there were as many as `tensors`."""
        stored = tensors[:period]
        return cls(
            family,
            stored,
            runs=len(tensors) // period,
            head_size=size,
            heads=_sizes(stored, "self_attn.q_proj.weight", size),
            groups=_sizes(stored, "self_attn.k_proj.weight", size),
            neurons=_sizes(stored, "mlp.gate_proj.weight", 1),
        )

    @property
    def are_equal(self) -> bool:
        """Return whether all are of one width."""
        return all(len(set(own)) == 1 for own in (self.heads, self.groups, self.neurons))

    @property
    def has_few_biases(self) -> bool:
        """Return whether there are no biases but those of q, k and v."""
        biases = {name for name in self.tensors[0] if name.endswith(".bias")}
        return biases <= {f"self_attn.{role}_proj.bias" for role in "qkv"}

    @property
    def architecture(self) -> str:
        """Return the architecture under which llama.cpp runs them."""
        if self.runs > 1:
            return LOOPED
        has_all_heads = self.heads[0] * self.head_size == self.embedding
        own = self.are_equal and (has_all_heads or not self.family.needs_all_heads)
        return self.family.architecture if own else UNEQUAL

    @property
    def embedding(self) -> int:
        """Return the numbers that a layer reads and writes."""
        return self.tensors[0]["self_attn.q_proj.weight"].shape[1]

    def in_blocks(self, block: int) -> "Layers":
        """Return the layers with as many neurons of zeros more as make multiples of `block`."""
        tensors = [
            own
            | {name: _in_blocks(name, own[name], block) for name in own if ".mlp." in f".{name}"}
            for own in self.tensors
        ]
        return replace(self, tensors=tensors, neurons=_sizes(tensors, "mlp.gate_proj.weight", 1))

    @property
    def has_pairs(self) -> bool:
        """Return whether neighbouring rows of q and k are rotated together there."""
        return self.family.has_pairs or self.architecture != self.family.architecture


def _sizes(layers: Sequence[dict[str, Tensor]], name: str, unit: int) -> tuple[int, ...]:
    return tuple(len(layer[name]) // unit for layer in layers)


def _in_blocks(name: str, tensor: Tensor, block: int) -> Tensor:
    if "down_proj" in name:
        added = (0, -tensor.shape[-1] % block if tensor.dim() == 2 else 0)
    else:
        added = (0,) * (2 * tensor.dim() - 1) + (-len(tensor) % block,)
    return functional.pad(tensor, added)


def _period(layers: Sequence[dict[str, Tensor]]) -> int:
    """Return the least number of layers that, run again and again, are all of `layers`."""
    depth = len(layers)
    return next(
        size
        for size in range(1, depth + 1)
        if depth % size == 0
        and all(_are_alike(layers[i], layers[i % size]) for i in range(size, depth))
    )


def _are_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())
