"""Keep keys and values once for all layers that reuse them while a model writes.

A layer that borrows another's keys and values finds them in that layer's cache: its own place in
the cache holds a :class:`SharedLayer`, which stores nothing.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

from sharetune.trainers.models.activation_reuse import Borrower, Lend

CROSSED = ("key_value_states", "encoder_hidden_states")
"""Arguments of an attention that reads an encoder's output."""

OF_FSMT = "encoder_decoder_attention"
"""Attribute by which FSMT tells the same, whose arguments do not."""

PLACE = "layer_idx"
"""Attribute that says which place of the cache an attention uses."""

OF_SCORES = frozenset({"has_relative_attention_bias"})
"""Attributes that change what an attention makes of keys, not the keys."""


class SharedLayer(DynamicLayer):
    """The place in a cache of a layer whose keys and values are those of `owner`."""

    keys = property(lambda self: self.owner.keys)
    values = property(lambda self: self.owner.values)
    is_initialized = property(lambda self: self.owner.is_initialized)

    def __init__(self, owner: DynamicLayer) -> None:
        self.owner = owner
        self.length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Return the owner's keys and values, which hold those of this pass already."""
        self._follow()
        return self.owner.keys, self.owner.values  # type: ignore[return-value]

    def get_seq_length(self) -> int:
        """Return the number of tokens that this layer has read; the owner may be a pass ahead."""
        return self.length

    def _follow(self, *args: object, **kwargs: object) -> None:
        """Leave to the owner what is done to every layer of a cache, and take on its length."""
        self.length = self.owner.get_seq_length()

    offload = prefetch = reset = crop = reorder_cache = _follow
    batch_repeat_interleave = batch_select_indices = _follow


class ReadCacheOf:
    """A pre-hook of an attention that gives it the place `owner` of the cache to read."""

    def __init__(self, owner: int) -> None:
        self.owner = owner

    def __call__(self, attention: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        # families name this argument differently
        arguments = (*args, *given.values())
        cache = next((value for value in arguments if isinstance(value, Cache)), None)
        if isinstance(cache, EncoderDecoderCache):
            crosses = any(given.get(name) is not None for name in CROSSED)
            crosses |= getattr(attention, OF_FSMT, False)
            cache = cache.cross_attention_cache if crosses else cache.self_attention_cache
        if not isinstance(cache, Cache) or type(cache.layers[self.owner]) is not DynamicLayer:
            return  # layers that forget, or have places set aside, stay as they are
        place: int = attention.layer_idx  # type: ignore[assignment]
        kind = cache.layer_class_to_replicate
        while len(cache.layers) <= place and kind is not None:
            cache.layers.append(kind())
        if not isinstance(cache.layers[place], SharedLayer):
            cache.layers[place] = SharedLayer(cache.layers[self.owner])


def share_caches_(model: nn.Module) -> None:
    """Let attentions whose keys and values are all another's read its cache, in place."""
    owners = dict(_owners(model))
    for attention in model.modules():
        borrowers = [child for child in attention.children() if isinstance(child, Borrower)]
        if any(child.is_cached for child in borrowers):
            owner = owners.get(id(borrowers[0].handover))
            if owner is not None and keys_alike(owner, attention):
                place: int = owner.layer_idx  # type: ignore[assignment]
                attention.register_forward_pre_hook(ReadCacheOf(place), with_kwargs=True)


def _owners(model: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """Yield the id of each handover with the attention that fills it."""
    for attention in model.modules():
        for child in attention.children():
            for hook in child._forward_hooks.values():
                if isinstance(hook, Lend):
                    yield id(hook.handover), attention


def keys_alike(owner: nn.Module, reader: nn.Module) -> bool:
    """Return whether two attentions cache the same keys and values if their matrices make the same.

    They do not if they norm them by weights of their own, or have different settings, such as
    positions in one of them only.
    """
    mine, theirs = _settings_of(reader), _settings_of(owner)
    return type(mine.pop(PLACE, None)) is type(theirs.pop(PLACE, None)) is int and (
        mine == theirs and not any(map(_is_vector, reader.children()))
    )


def _settings_of(attention: nn.Module) -> dict[str, Any]:
    kinds = bool | int | float | str | None
    own = vars(attention).items()
    return {name: v for name, v in own if isinstance(v, kinds) and name not in OF_SCORES}


def _is_vector(module: nn.Module) -> bool:
    """Return whether all weights of a module are vectors, as a norm's are."""
    weights = list(module.parameters())
    return bool(weights) and all(tensor.dim() < 2 for tensor in weights)
