"""Name the kinds of layers in a list of several, by what tells them apart.

The words are those of the configuration's list of layer types, the sort of the FFN (``dense`` or
``moe``), or what differs in the layers' class names.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from torch import nn
from transformers import PreTrainedConfig

EXPERT_WORD = re.compile(r"(^|\.)experts?(\.|_\d|$)")
"""A part of the path of a tensor of a mixture's experts, not of an expert that all tokens read."""

CAMEL_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+")
"""One word of a class name."""

FULL_ATTENTION = "full_attention"
"""The library's word for attention to all tokens."""

REUSE = "reuse"
"""How a layer shares keys and values that reads those of another, as Gemma 3n's last ones."""

STORE = "store"
"""How a layer shares keys and values whose own are read by others."""

Words = Callable[[int], str]
"""The word for the layer at a place of the list."""


def kind_names(
    layers: nn.ModuleList, kinds: Sequence[Sequence[int]], config: PreTrainedConfig
) -> list[str]:
    """Return a name for each of `kinds`, the places of the layers of each kind.

    The first way to name them in which no two have the same; numbers where there is none.
    """
    ways = [*_by_type(config, len(layers)), lambda place: _ffn_word(layers[place])]
    ways = [way for way in ways if all(len({way(place) for place in own}) == 1 for own in kinds)]
    joined = [tuple(way(own[0]) for way in ways) for own in kinds]
    singles = list(zip(*joined, strict=True))
    firsts = [layers[own[0]] for own in kinds]
    alone = (_by_class(firsts), _by_children(firsts))
    for words in (*singles, ["+".join(own) for own in joined], *alone):
        if len(set(words)) == len(kinds) and all(words):
            return list(words)
    return [str(number) for number in range(len(kinds))]


def _ffn_word(layer: nn.Module) -> str:
    has_experts = any(EXPERT_WORD.search(name) for name, _ in layer.named_parameters())
    return "moe" if has_experts else "dense"


def _by_type(config: PreTrainedConfig, length: int) -> Iterator[Words]:
    """Yield the ways in which the configuration names the type of each of `length` layers."""
    for name in ("layers_block_type", "layer_types"):
        types = getattr(config, name, None)
        if isinstance(types, list | tuple) and len(types) == length:
            yield lambda place, types=types: _short(str(types[place]))  # type: ignore[misc]
            break
    modes = kv_sharing_modes(config)
    if len(modes) == length:
        yield lambda place: REUSE if modes[place] == REUSE else "own"


def kv_sharing_modes(config: PreTrainedConfig) -> Sequence[str | None]:
    """Return how each layer shares keys and values with others; empty if the model says nothing."""
    return getattr(config, "kv_sharing_modes", None) or ()


def _short(layer_type: str) -> str:
    return "attention" if layer_type == FULL_ATTENTION else layer_type.removesuffix("_attention")


def _by_class(layers: Sequence[nn.Module]) -> list[str]:
    """Return what differs between the class names of the layers."""
    words = [CAMEL_WORD.findall(type(layer).__name__) for layer in layers]
    common = set(words[0]).intersection(*words)
    return ["_".join(word.lower() for word in own if word not in common) for own in words]


def _by_children(layers: Sequence[nn.Module]) -> list[str]:
    """Return the names of the modules that only some of the layers have; ``plain`` for none."""
    names = [[name for name, _ in layer.named_children()] for layer in layers]
    common = set(names[0]).intersection(*names)
    return ["+".join(name for name in own if name not in common) or "plain" for own in names]
