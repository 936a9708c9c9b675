"""Keep what a model makes for each layer by its number, once layers are dropped.

Gemma 3n embeds every token anew for each layer: an embedding, and a projection, of as many parts as
there are layers.
"""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from sharetune.trainers.models.arrangement import Arrangement

INPUT_BY_LAYER = "hidden_size_per_layer_input"
"""The attribute for the width of what each layer gets by its number."""

BY_LAYER = "per_layer"
"""A part of the names of modules that make it."""


def input_width(config: PreTrainedConfig) -> int:
    """Return the width of what each layer gets by its number; 0: it gets nothing."""
    return getattr(config.get_text_config(), INPUT_BY_LAYER, None) or 0


def arrange_inputs_(model: PreTrainedModel, arrangement: Arrangement) -> None:
    """Keep, in place, the parts of the layers that run, in their order."""
    width = input_width(model.config)
    places = torch.tensor(arrangement.order)[:, None] * width + torch.arange(width)
    for module, axis in _makers(model, arrangement, width) if width else ():
        chosen = module.weight.detach().index_select(
            axis, places.flatten().to(module.weight.device)
        )
        module.weight = nn.Parameter(chosen, module.weight.requires_grad)
        size = "embedding_dim" if isinstance(module, nn.Embedding) else "out_features"
        setattr(module, size, chosen.shape[axis])


def _makers(
    model: PreTrainedModel, arrangement: Arrangement, width: int
) -> Iterator[tuple[nn.Embedding | nn.Linear, int]]:
    """Yield the modules next to the list that make `width` numbers a layer, and their axis."""
    holder = model.get_submodule(arrangement.path.rpartition(".")[0])
    for name, child in holder.named_children():
        if BY_LAYER in name and isinstance(child, nn.Embedding | nn.Linear):
            axis = int(isinstance(child, nn.Embedding))
            if child.weight.shape[axis] == arrangement.length * width:
                yield child, axis
