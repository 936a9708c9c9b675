"""Texts as tokens with the bytes they stand for, and blocks of one length."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sharetune.trainers.data.blocks import Blocks, Document, Text, documents

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
    (found,) = documents([Text(text)], by_bytes)
    assert found.tokens[-1] == END
    assert found.sizes.tolist() == [*sizes, 0]
    assert found.sizes.sum() == len(text.encode())


def test_what_a_tokenizer_drops_belongs_to_the_token_after_it_or_the_last():
    inner = Tokenizer(models.WordLevel({"?": 0, "a": 1, "bb": 2}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    reader = PreTrainedTokenizerFast(tokenizer_object=inner)
    (found,) = documents([Text("  a   bb  ")], reader)
    assert found.tokens.tolist() == [1, 2]
    assert found.sizes.tolist() == [3, 7]


class Slow:
    """A tokenizer that does not say where its tokens lie."""

    is_fast, eos_token_id = False, None

    def __call__(self, texts, **_):
        return {"input_ids": [[7, 8, 9] for _ in texts]}


def test_a_tokenizer_without_places_gives_each_token_the_same_part():
    (found,) = documents([Text("sixsix")], Slow())
    assert found.sizes.tolist() == [2, 2, 2]


def document(tokens, sizes, counted=None):
    every = [True] * len(tokens) if counted is None else counted
    return Document(np.array(tokens), np.array(sizes), np.array(every, bool))


def test_blocks_leave_out_the_rest_and_count_all_but_their_first_token():
    texts = [document([0, 1, 2], [5, 1, 0]), document([0, 1, 2, 3], [0, 1, 2, 3])]
    blocks = Blocks(3)
    found = blocks.add(texts)
    assert found["input_ids"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found["labels"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert found["truth"].tolist() == [[2, 1], [2, 3]]
    assert blocks.left_over == 1
    assert Blocks(8).add(texts)["input_ids"].shape == (0, 8)
    assert Blocks(8).add([])["input_ids"].shape == (0, 8)


def test_documents_that_come_in_parts_make_the_same_blocks():
    texts = [document(range(n), range(n)) for n in (4, 1, 7, 3, 6, 2)]
    for apart in (False, True):
        whole = Blocks(5, apart).add(texts)
        blocks = Blocks(5, apart)
        parts = [blocks.add([one]) for one in texts]
        for name, values in whole.items():
            assert np.concatenate([part[name] for part in parts]).tolist() == values.tolist()


def test_documents_apart_begin_anew_and_their_first_token_is_not_predicted():
    found = Blocks(4, apart=True).add([document([7, 8], [1, 1]), document(range(9, 15), [2] * 6)])
    assert found["input_ids"].tolist() == [[7, 8, 9, 10], [11, 12, 13, 14]]
    # the second block goes on with the document of the first: it begins anew there
    assert found["position_ids"].tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert found["labels"].tolist() == [[-100, 8, -100, 10], [-100, 12, 13, 14]]
    assert found["truth"].tolist() == [[2, 3], [3, 6]]


def test_blocks_without_an_answer_are_left_out():
    texts = [document([1, 2, 3, 4], [1] * 4, [False] * 4), document([5, 6], [1, 1], [False, True])]
    found = Blocks(2).add(texts)
    assert found["input_ids"].tolist() == [[5, 6]]
    assert found["labels"].tolist() == [[-100, 6]]
    assert found["truth"].tolist() == [[1, 1]]


def test_only_answers_are_predicted_and_the_end_after_the_last(by_bytes):
    (found,) = documents([Text("ab?yes", [(3, 6)])], by_bytes)
    assert found.counted.tolist() == [False, False, False, True, True, True, True]
    (found,) = documents([Text("a?b!c", [(2, 3)])], by_bytes)
    assert found.counted.tolist() == [False, False, True, False, False, False]
    (found,) = documents([Text("ab", [], ended=False)], by_bytes)
    assert found.counted.tolist() == [False, False]
