"""Tokenise texts, with the bytes each token stands for, and cut them into blocks of one length."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

UNCOUNTED = -100
"""Label of a token that is not predicted: losses of PyTorch and the library leave it out."""

Spans = Sequence[tuple[int, int]]
"""Parts of a text as places of letters: where each begins, and where it has ended."""


@dataclass(frozen=True)
class Text:
    """One text; only its `answers` are predicted (None: all of it). An `ended` one gets an end."""

    text: str
    answers: Spans | None = None
    ended: bool = True


@dataclass(frozen=True)
class Document:
    """One text's token ids, the UTF-8 bytes each stands for, and whether it is predicted: (tokens).

    A token stands for what lies between the end of the token before it and its own end, the last
    one for all to the text's end, and an end of text for nothing.
    """

    tokens: np.ndarray
    sizes: np.ndarray
    counted: np.ndarray


def documents(texts: Sequence[Text], reader: Any) -> list[Document]:
    """Tokenise `texts`, each without special tokens but for an end of text after it.

    Tokens are predicted whose last letter lies in an answer. A tokenizer that does not say where
    its tokens lie gives each the same part of its text's letters.
    """
    read = reader(
        [one.text for one in texts],
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=reader.is_fast,
        verbose=False,
    )
    places = read["offset_mapping"] if reader.is_fast else [None] * len(texts)
    return [
        _document(one, ids, at, reader.eos_token_id)
        for one, ids, at in zip(texts, read["input_ids"], places, strict=True)
    ]


def _document(one: Text, ids: Sequence[int], places: Spans | None, end: int | None) -> Document:
    ends = _ends(one.text, len(ids), places)
    sizes = np.diff(_bytes_before(one.text)[ends], prepend=0).astype(np.int32)
    counted = np.full(len(ids), one.answers is None)
    for first, last in one.answers or ():
        counted |= (ends > first) & (ends <= last)
    if end is None or not one.ended:
        return Document(np.array(ids, np.int32), sizes, counted)
    answered = one.answers is None or (bool(one.answers) and one.answers[-1][1] == len(one.text))
    return Document(
        np.array([*ids, end], np.int32), np.append(sizes, np.int32(0)), np.append(counted, answered)
    )


def _ends(text: str, count: int, places: Spans | None) -> np.ndarray:
    """Return how many letters of `text` lie before the end of each of `count` tokens, rising."""
    if count == 0:
        return np.zeros(0, np.int64)
    if places is None:
        return np.linspace(0, len(text), count + 1).round().astype(np.int64)[1:]
    ends: np.ndarray = np.maximum.accumulate(np.array([last for _, last in places], np.int64))
    ends[-1] = len(text)
    return ends


def _bytes_before(text: str) -> np.ndarray:
    """Return the UTF-8 bytes before each letter of `text`, and those of all: (letters + 1)."""
    letters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = np.ones(len(letters), np.int64)
    for first in (0x80, 0x800, 0x10000):  # letters from here on take one byte more
        widths += letters >= first
    return np.concatenate([[0], np.cumsum(widths)])


@dataclass
class Blocks:
    """Puts documents together and cuts them into blocks of `length` tokens, as they come.

    Documents that are `apart` do not see each other: a block has the places of its tokens in their
    documents as ``position_ids``, and a document's first token is not predicted.
    """

    length: int
    apart: bool = False
    _rest: np.ndarray = field(default_factory=lambda: np.zeros((4, 0), np.int32))

    @property
    def left_over(self) -> int:
        """The tokens that do not fill a block yet."""
        return self._rest.shape[1]

    def add(self, found: Iterable[Document]) -> dict[str, np.ndarray]:
        """Return the blocks that `found` fills, (blocks, length) each; a rest stays for later.

        ``truth`` holds, for each block, the tokens that are predicted, which its first never is,
        and the bytes that they stand for: (blocks, 2). Blocks without such tokens are left out.
        """
        parts = [
            np.stack([one.tokens, one.sizes, one.counted, np.arange(len(one.tokens))]).astype(
                np.int32
            )
            for one in found
        ]
        whole = np.concatenate([self._rest, *parts], 1)
        count = whole.shape[1] // self.length
        cut = whole[:, : count * self.length].reshape(4, count, self.length)
        self._rest = whole[:, count * self.length :]
        tokens, sizes, counted, places = cut
        places = np.minimum(places, np.arange(self.length, dtype=np.int32))
        predicted = (counted == 1) & ((places > 0) if self.apart else True)
        predicted[:, :1] = False
        kept = predicted.any(1)
        labels = np.where((counted == 1) if not self.apart else predicted, tokens, UNCOUNTED)
        truth = np.stack([predicted.sum(1), (sizes * predicted).sum(1)], 1).astype(np.int32)
        blocks = {"input_ids": tokens, "labels": labels, "truth": truth}
        blocks |= {"position_ids": places} if self.apart else {}
        return {name: values[kept] for name, values in blocks.items()}
