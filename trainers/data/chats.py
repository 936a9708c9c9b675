"""Read chats, and write them as the model's template does, with the places of the answers."""

import json
from collections.abc import Sequence
from typing import Any

from sharetune.spaces.errors import DataError
from sharetune.trainers.data.blocks import Text
from sharetune.trainers.data.cells import is_null

ANSWERING = "assistant"
"""The role of the messages that a model learns to write."""

Message = dict[str, Any]


def chat_of(cell: object, source: str, row: int) -> str:
    """Return a cell of messages, a list or JSON of one, as JSON.

    Raises :class:`DataError` for anything but messages with a role and a content.
    """
    messages = cell
    if isinstance(cell, str):
        try:
            messages = json.loads(cell)
        except ValueError:
            messages = None
    if hasattr(messages, "tolist"):
        messages = messages.tolist()
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise DataError(
            f"{source} has no list of messages in row {row}",
            'each message is {"role": "user", "content": "..."}, in a list, or JSON of one',
        )
    plain = [{k: v for k, v in message.items() if not is_null(v)} for message in messages]
    return json.dumps(plain, ensure_ascii=False)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(key), str) for key in ("role", "content")
    )


def written_chat(chat: str, reader: Any) -> Text:
    """Write a chat with the tokenizer's template; its answers are what an assistant says.

    An answer begins where the template prompts for it, and takes in the mark of its end. Raises
    :class:`DataError` for a tokenizer without a template, one that cannot write the chat, and one
    that writes earlier messages in another way once later ones follow.
    """
    messages: list[Message] = json.loads(chat)
    whole = _rendered(messages, reader)
    answers = []
    for place, message in enumerate(messages):
        if message["role"] == ANSWERING:
            before = _rendered(messages[:place], reader, add_generation_prompt=True)
            until = _rendered(messages[: place + 1], reader)
            if not (until.startswith(before) and whole.startswith(until)):
                raise DataError(
                    "the model's chat template writes earlier messages in another way once later "
                    "ones follow, so that answers cannot be told from the rest",
                    "set task.answers_only to false, or give each chat one answer, its last "
                    "message",
                )
            answers.append((len(before), len(until)))
    return Text(whole, answers, ended=False)


def _rendered(messages: Sequence[Message], reader: Any, **options: bool) -> str:
    if not getattr(reader, "chat_template", None):
        raise DataError(
            "the model's tokenizer has no chat template", "name a model that was tuned for chats"
        )
    if not messages:
        return ""
    try:
        text: str = reader.apply_chat_template(list(messages), tokenize=False, **options)
    except Exception as error:  # a template's own, of any class
        raise DataError(
            f"the model's chat template cannot write a chat: {error}",
            f"it has the roles {', '.join(message['role'] for message in messages)}",
        ) from error
    return text
