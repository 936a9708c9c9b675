"""Count the keys and values, or states, that a decoder keeps while it writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer, EncoderDecoderCache


class Kept(NamedTuple):
    """Bytes that a layer keeps of a pass, and those of them that layers with its keys share.

    `crossed` are shared bytes of what the layer reads of an encoder, `shared` all others.
    """

    all: int = 0
    shared: int = 0
    crossed: int = 0


@contextmanager
def cache_watched(model: PreTrainedModel) -> Iterator[list[Kept]]:
    """Yield a list that holds, after each pass inside, what the layers keep, in order.

    It is empty for a model that keeps nothing. Copies of the model fill the same list.
    """
    kept: list[Kept] = []

    def remember(_: object, __: object, output: Any) -> None:
        kept[:] = _kept(getattr(output, "past_key_values", None))

    config = model.config.get_text_config(decoder=True)
    before = getattr(config, "use_cache", None)
    hook = model.register_forward_hook(remember)
    if before is not None:
        config.use_cache = True
    try:
        yield kept
    finally:
        hook.remove()
        if before is not None:
            config.use_cache = before


def _kept(cache: Any) -> Iterator[Kept]:
    if isinstance(cache, EncoderDecoderCache):
        own = list(_kept(cache.self_attention_cache))
        for one, crossed in zip(own, _kept(cache.cross_attention_cache), strict=True):
            yield Kept(one.all + crossed.all, one.shared, crossed.shared)
        return
    lists = [own for own in getattr(cache, "__dict__", {}).values() if isinstance(own, list)]
    for layers in zip_longest(*lists, fillvalue=()):
        size = sum(map(_bytes, layers))
        yield Kept(size, size if type(layers[0]) is DynamicLayer else 0)


def _bytes(layer: Any) -> int:
    """Return the bytes of what a cache holds for a layer: an object with tensors, or a tensor."""
    leaves = tree_leaves(layer if isinstance(layer, Tensor | list | tuple) else vars(layer))
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
