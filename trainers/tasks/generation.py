"""Writing token after token, greedily and with a cache."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

BATCH = 64
NEW_TOKENS = 16
"""How many tokens are written when a model that writes is timed."""


def write_on(model: PreTrainedModel, read: Tensor, new_tokens: int) -> Tensor:
    """Token ids of exactly `new_tokens` more tokens after `read`, the model's main input, without
    regard to an end of text."""
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
    """What an encoder-decoder writes for the rows of `split`, greedily, in order; at most
    `most_tokens` tokens each; `beginning` is what ``generate`` takes for it. The model is left in
    eval mode."""
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
