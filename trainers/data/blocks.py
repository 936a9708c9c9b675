"""Tokenise texts, with the bytes each token stands for, and cut them into blocks of one length."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

UNCOUNTED = -100
"""Label of a token that is not predicted: losses of PyTorch and the library leave it out."""


@dataclass(frozen=True)
class Document:
    """One text's token ids, and the UTF-8 bytes that each of them stands for: (tokens), integers.

    A token stands for what lies between the end of the token before it and its own end, the last
    one for all to the text's end, and an end of text for nothing.
    """

    tokens: np.ndarray
    sizes: np.ndarray


def documents(texts: Sequence[str], reader: Any) -> list[Document]:
    """Tokenise `texts`, each without special tokens but for an end of text after it.

    A tokenizer that does not say where its tokens lie gives each the same part of its text's bytes.
    """
    read = reader(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=reader.is_fast,
        verbose=False,
    )
    places = read["offset_mapping"] if reader.is_fast else [None] * len(texts)
    end = [] if reader.eos_token_id is None else [reader.eos_token_id]
    return [
        Document(
            np.array([*ids, *end], np.int32),
            np.append(_sizes(text, len(ids), at), np.zeros(len(end), np.int32)),
        )
        for text, ids, at in zip(texts, read["input_ids"], places, strict=True)
    ]


def blocks(found: Iterable[Document], length: int) -> dict[str, np.ndarray]:
    """Put documents together and cut them into blocks: (blocks, length); the rest is left out.

    ``truth`` holds, for each block, the tokens that are predicted, all but its first, and the bytes
    that they stand for: (blocks, 2).
    """
    whole = list(found)
    empty = np.zeros(0, np.int32)
    tokens = np.concatenate([empty, *(document.tokens for document in whole)])
    sizes = np.concatenate([empty, *(document.sizes for document in whole)])
    count = len(tokens) // length
    cut = tokens[: count * length].reshape(count, length)
    told = sizes[: count * length].reshape(count, length)[:, 1:].sum(1, dtype=np.int32)
    truth = np.stack([np.full_like(told, length - 1), told], 1)
    return {"input_ids": cut, "labels": cut, "truth": truth}


def _sizes(text: str, count: int, places: Sequence[tuple[int, int]] | None) -> np.ndarray:
    """Return the bytes of `text` that each of `count` tokens at `places` stands for."""
    if count == 0:
        return np.zeros(0, np.int32)
    letters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + sum((letters >= first).astype(np.int32) for first in (0x80, 0x800, 0x10000))
    before = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    if places is None:
        ends = np.linspace(0, before[-1], count + 1).round().astype(np.int32)[1:]
    else:
        last = np.maximum.accumulate(np.array(places, np.int64)[:, 1])
        last[-1] = len(text)
        ends = before[last]
    return np.diff(ends, prepend=0).astype(np.int32)
