"""Keep what a model makes for each layer by its number, once layers are dropped.

Gemma 3n embeds every token anew for each layer: an embedding, and a projection, of as many parts as
there are layers.
"""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.models.arrangement import Arrangement

INPUT_BY_LAYER = "hidden_size_per_layer_input"
"""The attribute for the width of what each layer gets by its number."""

TABLE_BY_LAYER = "vocab_size_per_layer_input"
"""The attribute for the rows of an embedding of its own for each layer."""

OTHER_LAYERS = "per_layer_config"
"""The key under which a configuration holds what some layers have otherwise, by number."""

BY_LAYER = "per_layer"
"""A part of the names of modules that make it."""


def input_width(config: PreTrainedConfig) -> int:
    """Return the width of what each layer gets by its number; 0: it gets nothing."""
    return getattr(config.get_text_config(), INPUT_BY_LAYER, None) or 0


def can_lose_layers(config: PreTrainedConfig) -> bool:
    """Return whether what the model makes for each layer is known: an embedding and a projection.

    Then they lie next to the list of layers, as in Gemma 3n.
    """
    own = config.get_text_config().to_dict()
    return bool(own.get(TABLE_BY_LAYER)) and not own.get(OTHER_LAYERS)


def arrange_inputs_(model: PreTrainedModel, arrangement: Arrangement) -> None:
    """Keep, in place, the parts of the layers that run, in their order."""
    width = input_width(model.config)
    if not width:
        return
    makers = list(_makers(model, arrangement, width))
    if {axis for _, axis in makers} != {0, 1}:
        raise ModelError(
            f"layers of {type(model).__name__} cannot be dropped: what it makes for each by its "
            "number is not found",
            "share weights instead, for example with form: tie",
        )
    places = torch.tensor(arrangement.order)[:, None] * width + torch.arange(width)
    for module, axis in makers:
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
