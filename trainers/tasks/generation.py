"""Generate text token after token, greedily and with a key-value cache."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

BATCH = 64
"""Rows that are generated for at once: each keeps a cache of keys and values in memory."""

NEW_TOKENS = 16
"""Tokens generated when a generating model is timed: enough that decoding outweighs the prompt."""


def write_on(model: PreTrainedModel, read: Tensor, new_tokens: int) -> Tensor:
    """Generate exactly `new_tokens` tokens after `read`, the model's main input; return all ids.

    An end of text does not stop the generation.
    """
    ids = model.main_input_name == "input_ids"
    mask = {"attention_mask": torch.ones_like(read)} if ids else {}
    written: Tensor = model.generate(
        read,
        **mask,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
    )
    return written


def generated(
    model: PreTrainedModel, split: Any, most_tokens: int, **beginning: int
) -> list[list[int]]:
    """Generate an encoder-decoder's output tokens for the rows of `split`, greedily, in order.

    Each row gets at most `most_tokens` tokens; `beginning` is passed to ``generate``. The model is
    left in eval mode.
    """
    loader = torch.utils.data.DataLoader(split.rows, batch_size=BATCH, collate_fn=split.collate)
    model.eval()
    found: list[list[int]] = []
    for batch in loader:
        read = {
            name: tensor.to(model.device)
            for name, tensor in batch.items()
            if name != "labels" and not name.startswith("decoder_")
        }
        with torch.no_grad():
            tokens = model.generate(
                **read,
                **beginning,
                max_new_tokens=most_tokens,
                do_sample=False,
                num_beams=1,
                use_cache=True,
            )
        found += tokens.tolist()
    return found
