"""Find how many tokens a model reads: the size of its table of positions."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from sharetune.spaces.errors import ConfigError

TABLES = frozenset(
    ("position_embeddings", "position_embedding", "embed_positions", "positions_embed", "wpe")
)
"""Names that the library's models give to the table of their absolute positions."""


def most_tokens(model: PreTrainedModel) -> int | None:
    """Return the longest input of `model` in tokens; None: no table of positions bounds it.

    `model` may be a skeleton. Positions that count from after the padding token's number (RoBERTa)
    or from an offset (BART, OPT) leave fewer tokens than the table has rows.
    """
    if model.main_input_name != "input_ids":
        return None
    return min(_lengths(model), default=None)


def refuse_beyond_positions(model: PreTrainedModel, max_length: int, key: str) -> None:
    """Raise :class:`ConfigError` if `model` reads fewer than `max_length` tokens, set by `key`."""
    most = most_tokens(model)
    if most is not None and max_length > most:
        raise ConfigError(
            f"{key} is {max_length}, and the model reads at most {most} tokens",
            f"set {key} to {most} at most",
        )


def _lengths(model: PreTrainedModel) -> Iterator[int]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in TABLES:
            padding = -1 if module.padding_idx is None else module.padding_idx
            yield module.num_embeddings - int(getattr(module, "offset", padding + 1))
    for name, buffer in model.named_buffers():
        if buffer.dim() == 2 and name.rpartition(".")[2] in TABLES:
            yield buffer.shape[0]
