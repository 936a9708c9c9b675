"""Check that a tokenizer fits the model and the texts it reads, and agree on a padding token.

The library makes a tokenizer even where a folder has no files of one; it reads every text as
unknown tokens, or as nothing.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from sharetune.spaces.errors import ConfigError, DataError, ModelError
from sharetune.trainers.models.pretrained import from_library

MOST_UNKNOWN = 0.5
"""Largest fraction (0..1) of the texts' tokens that a fitting tokenizer does not know."""

CHECKED_TEXTS = 1000
"""Texts, evenly spaced, that a tokenizer is tried on."""

FITTING = "save the tokenizer that the model was trained with in the model's folder"
"""Hint of errors about a tokenizer of another model, or of none."""


def refuse_unfit_vocabulary(tokenizer: Any, config: Any) -> None:
    """Raise :class:`ModelError` if `tokenizer` has words whose ids the model does not embed.

    Added and special tokens may lie beyond the embeddings, as BART's mask does.
    """
    rows = vocabulary_size(config)
    if rows is None or not hasattr(tokenizer, "get_vocab") or len(tokenizer) <= rows:
        return
    added = set(tokenizer.get_added_vocab()) | set(tokenizer.all_special_tokens)
    beyond = [word for word, i in tokenizer.get_vocab().items() if i >= rows and word not in added]
    if beyond:
        raise ModelError(
            f"the model embeds {rows:,} tokens, and its tokenizer has {len(tokenizer):,}, among "
            f"them {min(beyond)!r}, which the model does not know",
            FITTING,
        )


def refuse_unknown_texts(tokenizer: Any, texts: Sequence[str], source: str) -> None:
    """Raise :class:`DataError` if `tokenizer` reads most of the `texts` as unknown or as nothing.

    Raises it as well if a token is none that the tokenizer has.
    """
    every = max(1, len(texts) // CHECKED_TEXTS)
    tried = list(islice(texts, 0, None, every))[:CHECKED_TEXTS]
    read = tokenizer(tried, add_special_tokens=False, verbose=False)["input_ids"]
    count, empty = sum(map(len, read)), sum(not ids for ids in read)
    unknown = 0 if tokenizer.unk_token_id is None else _count(read, tokenizer.unk_token_id)
    if unknown > MOST_UNKNOWN * count or empty > MOST_UNKNOWN * len(tried):
        what = "unknown to" if unknown else "nothing to"
        raise DataError(
            f"most of the texts in {source} are {what} the model's tokenizer, which has "
            f"{len(tokenizer):,} tokens, as in {tried[0][:60]!r}",
            FITTING,
        )


def refuse_too_short(tokenizer: Any, max_length: int, key: str, *, pairs: bool) -> None:
    """Raise :class:`ConfigError` if `max_length` leaves no room for a token of each text itself.

    A question of a pair may take half of it.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pairs)
    least = 2 * special + 1 if pairs else special + 1
    if max_length < least:
        raise ConfigError(
            f"{key} is {max_length}, and the tokenizer puts {special} special tokens into each "
            f"{'pair' if pairs else 'text'}, so that too little of it is read",
            f"set {key} to {least} at least",
        )


def with_places(tokenizer: Any) -> Any:
    """Return `tokenizer`, which says where in a text each token stands.

    Raises :class:`ModelError` for one that does not.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} does not say where in a text its tokens stand",
            "use a model that has a tokenizer.json",
        )
    return tokenizer


def vocabulary_size(config: Any) -> int | None:
    """Return the number of tokens that a model embeds; None for one that embeds none."""
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


def pad_as_the_model(tokenizer: Any, config: Any) -> None:
    """Let `tokenizer` pad with the token that :func:`padding_token` finds, in place."""
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding_token(tokenizer, config))


@lru_cache(maxsize=16)
def padding_settings(model: str) -> dict[str, int]:
    """Return what must be added to a model's configuration: its ``pad_token_id``, or nothing.

    A decoder with a head for whole texts finds the end of each text by it.
    """
    config = from_library(AutoConfig, model)
    if _is_known(config.get_text_config().pad_token_id, config):
        return {}
    return {"pad_token_id": padding_token(from_library(AutoTokenizer, model), config)}


def padding_token(tokenizer: Any, config: Any) -> int:
    """Return the id that both the tokenizer and the model know and texts are padded with.

    It is the model's own, else the tokenizer's, else the end of a text. Raises :class:`ModelError`
    if there is none of them.
    """
    own = config.get_text_config().pad_token_id
    for number in (own, tokenizer.pad_token_id, tokenizer.eos_token_id):
        if _is_known(number, config) and tokenizer.convert_ids_to_tokens(number) is not None:
            return int(number)
    raise ModelError(
        "the model has no padding token, and its tokenizer no end of text that could be taken "
        "for it",
        "set pad_token in its tokenizer_config.json to a token of the model's vocabulary",
    )


def _is_known(number: Any, config: Any) -> bool:
    size = vocabulary_size(config)
    return isinstance(number, int) and number >= 0 and (size is None or number < size)


def _count(read: Sequence[Sequence[int]], token: int) -> int:
    return sum(list(ids).count(token) for ids in read)
