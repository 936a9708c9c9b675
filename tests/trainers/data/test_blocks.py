"""Texts as tokens with the bytes they stand for, and blocks of one length."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sharetune.trainers.data.blocks import Document, blocks, documents

END = 256


@pytest.fixture(scope="module")
def by_bytes():
    """A tokenizer of bytes, as byte-level BPE without merges has them; 256 ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {letter: number for number, letter in enumerate(alphabet)} | {"<end>": END}
    inner = Tokenizer(models.BPE(words, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("abc", [1, 1, 1]),
        ("aé", [1, 2, 0]),  # both bytes of é lie at the letter, the first has it all
        ("€", [3, 0, 0]),
        ("a😀b", [1, 4, 0, 0, 0, 1]),
    ],
)
def test_every_byte_of_a_text_belongs_to_one_token(by_bytes, text, sizes):
    (found,) = documents([text], by_bytes)
    assert found.tokens[-1] == END
    assert found.sizes.tolist() == [*sizes, 0]
    assert found.sizes.sum() == len(text.encode())


def test_what_a_tokenizer_drops_belongs_to_the_token_after_it_or_the_last():
    inner = Tokenizer(models.WordLevel({"?": 0, "a": 1, "bb": 2}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    reader = PreTrainedTokenizerFast(tokenizer_object=inner)
    (found,) = documents(["  a   bb  "], reader)
    assert found.tokens.tolist() == [1, 2]
    assert found.sizes.tolist() == [3, 7]


class Slow:
    """A tokenizer that does not say where its tokens lie."""

    is_fast, eos_token_id = False, None

    def __call__(self, texts, **_):
        return {"input_ids": [[7, 8, 9] for _ in texts]}


def test_a_tokenizer_without_places_gives_each_token_the_same_part():
    (found,) = documents(["sixsix"], Slow())
    assert found.sizes.tolist() == [2, 2, 2]


def test_blocks_leave_out_the_rest_and_count_all_but_their_first_token():
    texts = [Document(np.arange(3), np.array([5, 1, 0])), Document(np.arange(4), np.arange(4))]
    found = blocks(texts, 3)
    assert found["input_ids"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found["labels"] is found["input_ids"]
    assert found["truth"].tolist() == [[2, 1], [2, 3]]
    assert blocks(texts, 8)["input_ids"].shape == (0, 8)
    assert blocks([], 8)["input_ids"].shape == (0, 8)
