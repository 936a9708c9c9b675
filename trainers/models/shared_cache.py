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


class SharedLayer(DynamicLayer):
    """The place in a cache of a layer whose keys and values are those of `owner`."""

    keys = property(lambda self: self.owner.keys)
    values = property(lambda self: self.owner.values)
    is_initialized = property(lambda self: self.owner.is_initialized)

    def __init__(self, owner: DynamicLayer) -> None:
        self.owner = owner

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Return the owner's keys and values, which hold those of this pass already."""
        return self.owner.keys, self.owner.values  # type: ignore[return-value]

    def _leave(self, *args: object, **kwargs: object) -> None:
        """Leave to the owner what is done to every layer of a cache."""

    offload = prefetch = reset = crop = reorder_cache = _leave
    batch_repeat_interleave = batch_select_indices = _leave


class ReadCacheOf:
    """A pre-hook of an attention that gives it the place `owner` of the cache to read."""

    def __init__(self, owner: int) -> None:
        self.owner = owner

    def __call__(self, attention: nn.Module, _: object, given: dict[str, Any]) -> None:
        cache = given.get("past_key_values")
        if isinstance(cache, EncoderDecoderCache):
            crosses = any(given.get(name) is not None for name in CROSSED)
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
    """Let attentions whose keys and values are all another's read its cache, in place.

    Those that norm or turn keys by weights of their own keep a cache of their own.
    """
    owners = dict(_owners(model))
    for attention in model.modules():
        children = [child for child in attention.children() if isinstance(child, Borrower)]
        if any(child.is_cached for child in children) and keeps_keys(attention):
            owner = owners.get(id(children[0].handover))
            if owner is not None and isinstance(getattr(attention, "layer_idx", None), int):
                attention.register_forward_pre_hook(ReadCacheOf(owner), with_kwargs=True)


def _owners(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield the id of each handover with the place in the cache of the attention that fills it."""
    for attention in model.modules():
        place = getattr(attention, "layer_idx", None)
        for child in attention.children():
            for hook in child._forward_hooks.values():
                if isinstance(hook, Lend) and isinstance(place, int):
                    yield id(hook.handover), place


def keeps_keys(attention: nn.Module) -> bool:
    """Return whether an attention uses keys as its matrix gives them, but for their positions."""
    return all(
        any(tensor.dim() > 1 for tensor in child.parameters())
        for child in attention.children()
        if next(child.parameters(), None) is not None
    )
