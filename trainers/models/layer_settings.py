"""Set in a model's configurations what they say of each layer, once layers are dropped or repeated.

They count layers, list something for each (``layer_types``), list the numbers of some
(``mlp_only_layers``), count the first ones of a kind (``first_k_dense_replace``), or work out which
are of which kind by a rule, as Jamba's ``attn_layer_period`` does.
"""

import re
from contextlib import suppress
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from sharetune.spaces.stack_shape import ONLY_WHOLE
from sharetune.trainers.models.arrangement import Arrangement
from sharetune.trainers.models.listed_config import list_, worked_out
from sharetune.trainers.models.structure import configs_above

DEPTH_ATTRIBUTES = ("num_hidden_layers", "num_layers")
"""Configuration attributes for the depth of a stack, where none names its side."""

STAGE_NAME = re.compile(r"stage(\d+)$")
"""The name of one of several stages, as Swin has; group 1 is its number."""

LISTS_OF_OTHER_THINGS = re.compile(
    r"^(architectures|depths?|.*(conv|tdnn|kernel|stride|dilat|stage|out_feat|out_indic|token|lang"
    r"|_names|label|hidden_sizes|num_heads|section|size_list|image|patch|bound|_range|lora).*)$"
)
"""Configuration lists that do not go layer by layer, though they may be as long."""

LISTS_OF_NUMBERS = re.compile(r"(?<!^num)(_layers|_layer_ids|_layer_indices|_idxs|_layer_idx)$")
"""Names of configuration lists that hold the numbers of some layers, such as ``moe_layers``."""

FIRST_LAYERS = re.compile(r"^(first_k_dense_replace|num_dense_layers|moe_layer_start_index)$")
"""Configuration attributes that count the first layers, all of one kind."""

LAST_LAYERS = "num_kv_shared_layers"
"""The configuration attribute that counts the last layers, which read keys and values of others."""


def layer_lists(config: PreTrainedConfig, length: int) -> list[str]:
    """Return the names of the lists of `config` with one entry for each of `length` layers."""
    return [
        name
        for name, values in vars(config).items()
        if isinstance(values, list | tuple)
        and len(values) == length
        and not LISTS_OF_OTHER_THINGS.match(name)
        and not _are_numbers(name, values, length)
    ]


def _are_numbers(name: str, values: Any, length: int) -> bool:
    """Return whether a list holds the numbers of some of `length` layers, in order."""
    return (
        isinstance(values, list | tuple)
        and LISTS_OF_NUMBERS.search(name) is not None
        and not LISTS_OF_OTHER_THINGS.match(name)
        and all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        and list(values) == sorted(set(values))
        and all(0 <= value < length for value in values)
    )


def arrange_settings_(model: PreTrainedModel, arrangement: Arrangement) -> None:
    """Set the layers that run in every configuration between the model and a list of layers."""
    words = arrangement.path.split(".")
    side = next((word for word in ("decoder", "encoder") if word in words), "")
    name = arrangement.stacks[0].name.partition("[")[0]
    length, kept = arrangement.length, arrangement.order
    for config in configs_above(model, arrangement.path):
        by_rule = worked_out(config, length)
        own = DEPTH_ATTRIBUTES if config is not model.config or name == ONLY_WHOLE else ()
        for attribute in _depth_attributes(config, side, name) + own:
            if getattr(config, attribute, None) == length:
                _set_if_settable(config, attribute, len(kept))
        for attribute in layer_lists(config, length):
            values = getattr(config, attribute)
            setattr(config, attribute, type(values)(values[index] for index in kept))
        _set_numbers(config, arrangement)
        _set_patterns(config, arrangement)
        _set_stage_names(config, length, len(kept))
        _set_stage_depth(config, name, len(kept))
        list_(config, {name: [values[i] for i in kept] for name, values in by_rule.items()})


def _set_if_settable(config: PreTrainedConfig, attribute: str, value: int) -> None:
    """Set an attribute unless it is a property of other ones, as ProphetNet's depth is."""
    with suppress(AttributeError, NotImplementedError):
        setattr(config, attribute, value)


def _set_numbers(config: PreTrainedConfig, arrangement: Arrangement) -> None:
    """Set the numbers of layers, and how many come first, to those of the places they run at."""
    kept = arrangement.order
    for name, value in list(vars(config).items()):
        if _are_numbers(name, value, arrangement.length):
            places = [place for place, before in enumerate(kept) if before in value]
            setattr(config, name, type(value)(places))
        elif FIRST_LAYERS.match(name) and isinstance(value, int):
            setattr(config, name, sum(before < value for before in kept))
        elif name == LAST_LAYERS and isinstance(value, int):
            setattr(config, name, sum(before >= arrangement.length - value for before in kept))


def _set_patterns(config: PreTrainedConfig, arrangement: Arrangement) -> None:
    """Set lists of ``[kinds of layers, repetitions]``, such as GPT-Neo's, to the kept layers."""
    for name, value in list(vars(config).items()):
        if not isinstance(value, list) or not all(_is_pattern(part) for part in value):
            continue
        kinds = [kind for pattern, times in value for _ in range(times) for kind in pattern]
        if kinds and len(kinds) == arrangement.length:
            setattr(config, name, [[[kinds[index]], 1] for index in arrangement.order])


def _is_pattern(part: Any) -> bool:
    pair = isinstance(part, list | tuple) and len(part) == 2
    return pair and isinstance(part[0], list | tuple) and isinstance(part[1], int)


def _set_stage_names(config: PreTrainedConfig, length: int, depth: int) -> None:
    """Set the names of a backbone whose stages are its layers; the last stage stays the output."""
    names = getattr(config, "stage_names", None)
    if not isinstance(names, list) or len(names) != length + 1:
        return
    last = names[-1]
    config.stage_names = ["stem", *(f"stage{number + 1}" for number in range(depth))]
    if getattr(config, "out_features", None) in ([last], None):
        config._out_features, config._out_indices = config.stage_names[-1:], [depth]


def _depth_attributes(config: PreTrainedConfig, side: str, stack: str) -> tuple[str, ...]:
    """Return the attributes for the stack's depth: those of its side, or the general ones."""
    if STAGE_NAME.match(stack):
        return ()
    own = [name for name in (f"{side}_layers", f"num_{side}_layers") if hasattr(config, name)]
    return tuple(own) or DEPTH_ATTRIBUTES


def _set_stage_depth(config: PreTrainedConfig, stack: str, depth: int) -> None:
    stage, depths = STAGE_NAME.match(stack), getattr(config, "depths", None)
    if stage and depths:
        number = int(stage[1])
        config.depths = [*depths[:number], depth, *depths[number + 1 :]]
