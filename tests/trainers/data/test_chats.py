"""Chats are written by the model's template, and their answers are found in what it writes."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sharetune.spaces.errors import DataError
from sharetune.trainers.data.chats import chat_of, written_chat

MARKED = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}[{{ m['content'] if loop.last else '...' }}]{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
CHAT = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "how?"},
    {"role": "assistant", "content": "so"},
]


def reader(template):
    inner = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=template)


def test_answers_are_what_an_assistant_says_and_the_mark_of_its_end():
    found = written_chat(json.dumps(CHAT), reader(MARKED))
    assert found.text == "<user>hi</><assistant>hello</><user>how?</><assistant>so</>"
    assert [found.text[a:b] for a, b in found.answers] == ["hello</>", "so</>"]
    assert not found.ended


def test_a_chat_that_an_assistant_begins():
    found = written_chat(json.dumps(CHAT[1:2]), reader(MARKED))
    assert [found.text[a:b] for a, b in found.answers] == ["<assistant>hello</>"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the model's tokenizer has no chat template"),
        (FORGETFUL, "writes earlier messages in another way once later ones follow"),
        (
            "{{ raise_exception('only two') }}",
            "chat template cannot write a chat: only",
        ),
    ],
)
def test_templates_that_cannot_be_used(template, message):
    with pytest.raises(DataError, match=message):
        written_chat(json.dumps(CHAT), reader(template))


@pytest.mark.parametrize(
    "cell",
    [CHAT, json.dumps(CHAT), np.array(CHAT, dtype=object), [m | {"name": None} for m in CHAT]],
)
def test_a_cell_is_a_list_of_messages_or_json_of_one(cell):
    assert json.loads(chat_of(cell, "t.jsonl", 1)) == CHAT


@pytest.mark.parametrize("cell", ["hello", "[]", [], None, [{"role": "user"}], [["user", "hi"]], 7])
def test_other_cells_are_refused_by_their_row(cell):
    with pytest.raises(DataError, match="t.jsonl has no list of messages in row 3"):
        chat_of(cell, "t.jsonl", 3)
