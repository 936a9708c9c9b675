"""Write a BERT whose layers are shared whole as a native ALBERT checkpoint.

In each of ``num_hidden_layers`` steps ALBERT (arXiv 1909.11942) runs one of its
``num_hidden_groups`` groups of ``inner_group_num`` layers. With the embedding size of the hidden
size and an identity between them, it computes the same as BERT; only the dropout after the FFN is
missing, so that further training differs.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AlbertConfig, PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.exports.base import EXPORTS, Needs, Written
from sharetune.trainers.exports.dense import save_ordinary
from sharetune.trainers.models.activation_reuse import Borrower
from sharetune.trainers.models.modules import SharedLinear, SharedNorm, resolved
from sharetune.trainers.models.shared_model import unshared_class
from sharetune.trainers.models.sharing import is_shared, materialize_unchecked_
from sharetune.trainers.models.structure import find_stacks

OTHER_FORMATS = "export as shared, dense or onnx"
"""The hint for models that ALBERT cannot hold."""

WHOLE_LAYERS_HINT = (
    f"{OTHER_FORMATS}; or search with form: tie and parts: [attention, ffn, norms, biases]"
)
"""The hint for layers that are not shared whole."""

SAME_NAMES = (
    *("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings"),
    *("type_vocab_size", "initializer_range", "layer_norm_eps", "chunk_size_feed_forward"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"),
    *("id2label", "label2id", "problem_type", "dtype"),
)
"""Settings that BERT and ALBERT configurations have under one name."""

LAYER_NAMES = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.dense",
    "attention.output.LayerNorm": "attention.LayerNorm",
    "intermediate.dense": "ffn",
    "output.dense": "ffn_output",
    "output.LayerNorm": "full_layer_layer_norm",
}
"""Prefixes of a layer's tensors, BERT's to ALBERT's."""

OUTER_NAMES = {
    "bert.pooler.dense.": "albert.pooler.",
    "bert.": "albert.",
    "pooler.dense.": "pooler.",
    "cls.predictions.transform.": "predictions.",
    "cls.predictions.": "predictions.",
}
"""Prefixes of the tensors outside layers, BERT's to ALBERT's; the first match counts."""


@dataclass(frozen=True)
class Arrangement:
    """ALBERT's three numbers, and the first position at which each stored layer runs.

    `positions` is in the order of the stored layers, group by group.
    """

    num_hidden_layers: int
    num_hidden_groups: int
    inner_group_num: int
    positions: tuple[int, ...]


@EXPORTS.register("albert")
@Needs(equal_layers=True, floats=True)
def export_albert(model: PreTrainedModel, folder: Path) -> Written:
    """a native ALBERT checkpoint, for BERT models whose groups share whole layers"""
    kind = _albert_class(model)
    _refuse_narrow(model)
    owners = layer_owners(model)
    arrangement = arrange(owners)
    albert = kind(_config(model, arrangement))
    _load(albert, materialize_unchecked_(copy.deepcopy(model)), arrangement)
    stored, shared = len(arrangement.positions), len(set(owners))
    note = f"ALBERT stores {stored} layers for this order, the plan {shared}."
    written = save_ordinary(albert, folder, note if stored > shared else "")
    return replace(written, is_once=stored == shared)


def _albert_class(model: PreTrainedModel) -> Any:
    """Return ALBERT's class with the model's head. Raises :class:`ModelError` if there is none."""
    own = unshared_class(type(model)) if is_shared(model) else type(model)  # type: ignore[arg-type]
    config = model.config
    if config.model_type != "bert" or config.is_decoder or config.add_cross_attention:
        raise ModelError(
            f"only BERT encoders can become ALBERT, and {own.__name__} is none: its positions, "
            "embeddings or attention differ",
            OTHER_FORMATS,
        )
    albert = getattr(transformers, own.__name__.replace("Bert", "Albert"), None)
    if albert is None:
        raise ModelError(f"ALBERT has no head like {own.__name__}", OTHER_FORMATS)
    return albert


def _refuse_narrow(model: PreTrainedModel) -> None:
    stack = next(iter(find_stacks(model).values()))
    heads, neurons = model.config.num_attention_heads, model.config.intermediate_size
    if (stack.shape.heads, stack.shape.neurons) != (heads, neurons):
        raise ModelError(
            f"ALBERT's layers are of one width, {heads} heads and {neurons} neurons, but this "
            "model has narrower ones",
            OTHER_FORMATS,
        )


def layer_owners(model: PreTrainedModel) -> list[int]:
    """Return, for each layer of a BERT, the number of the whole layer that it reads.

    Raises :class:`ModelError` for layers that share only some of their tensors.
    """
    layers = [dict(_tensors(i, layer)) for i, layer in enumerate(model.base_model.encoder.layer)]
    for (i, one), (j, two) in combinations(enumerate(layers), 2):
        private = [name for name in one if one[name] is not two[name]]
        if 0 < len(private) < len(one):
            raise ModelError(
                f"ALBERT's layers are whole, but layers {i} and {j} share some tensors and not "
                f"others, such as {private[0]}",
                WHOLE_LAYERS_HINT,
            )
    keys = [tuple(map(id, layer.values())) for layer in layers]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def _tensors(index: int, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in layer.named_modules():
        module = resolved(module)
        if isinstance(module, Borrower):
            raise ModelError(
                f"ALBERT's layers reuse nothing, but {path} of layer {index} does", OTHER_FORMATS
            )
        if isinstance(module, SharedLinear):
            _refuse_composed(index, path, module)
        source = module.entry if isinstance(module, SharedNorm) else module
        if isinstance(module, SharedLinear | SharedNorm | nn.Linear | nn.LayerNorm):
            weight = module.matrix if isinstance(module, SharedLinear) else source.weight
            yield f"{path}.weight", weight  # type: ignore[misc]
            yield f"{path}.bias", source.bias  # type: ignore[misc]


def _refuse_composed(index: int, path: str, module: SharedLinear) -> None:
    if module.matrix is not getattr(module.entry, "weight", None):
        raise ModelError(
            f"ALBERT's layers are whole, but {path} of layer {index} is put together from a bank "
            "and private weights",
            WHOLE_LAYERS_HINT,
        )


def arrange(owners: Sequence[int]) -> Arrangement:
    """Return the arrangement of the fewest stored layers that runs `owners` in their order.

    There is always one: as many groups as layers, which stores them all.
    """
    depth = len(owners)
    inner_sizes = [size for size in range(1, depth + 1) if depth % size == 0]
    found = (
        _arrangement(owners, groups, inner)
        for inner in inner_sizes
        for groups in range(1, depth // inner + 1)
    )
    return min(filter(None, found), key=lambda a: len(a.positions))


def _arrangement(owners: Sequence[int], groups: int, inner: int) -> Arrangement | None:
    """Return the arrangement of `groups` groups of `inner` layers; None if its order differs."""
    turns = len(owners) // inner
    first: dict[tuple[int, int], int] = {}
    for position, owner in enumerate(owners):
        turn, place = divmod(position, inner)
        group = int(turn / (turns / groups))  # ALBERT's own expression, to round alike
        if owners[first.setdefault((group, place), position)] != owner:
            return None
    if len(first) < groups * inner:
        return None
    return Arrangement(turns, groups, inner, tuple(first[key] for key in sorted(first)))


def _config(model: PreTrainedModel, arrangement: Arrangement) -> AlbertConfig:
    bert = model.config
    own_dropout = bert.classifier_dropout
    return AlbertConfig(
        **{name: getattr(bert, name) for name in SAME_NAMES},
        embedding_size=bert.hidden_size,
        num_hidden_layers=arrangement.num_hidden_layers,
        num_hidden_groups=arrangement.num_hidden_groups,
        inner_group_num=arrangement.inner_group_num,
        classifier_dropout_prob=bert.hidden_dropout_prob if own_dropout is None else own_dropout,
    )


def _load(albert: PreTrainedModel, bert: PreTrainedModel, arrangement: Arrangement) -> None:
    """Fill `albert` with the tensors of the dense `bert`, under ALBERT's names."""
    prefix = f"{bert.base_model_prefix}." if bert.base_model is not bert else ""
    layers = f"{prefix}encoder.layer."
    state = {
        _renamed(name, OUTER_NAMES): tensor
        for name, tensor in bert.state_dict().items()
        if not name.startswith(layers)
    }
    outer = _renamed(f"{prefix}encoder.", OUTER_NAMES)
    for place, position in enumerate(arrangement.positions):
        group, inner = divmod(place, arrangement.inner_group_num)
        target = f"{outer}albert_layer_groups.{group}.albert_layers.{inner}."
        layer = bert.base_model.encoder.layer[position].state_dict()
        state |= {target + _renamed(name, LAYER_NAMES): t for name, t in layer.items()}
    identity = torch.eye(bert.config.hidden_size)
    state[f"{outer}embedding_hidden_mapping_in.weight"] = identity
    state[f"{outer}embedding_hidden_mapping_in.bias"] = torch.zeros(len(identity))
    _load_all(albert, state)


def _load_all(albert: PreTrainedModel, state: dict[str, Tensor]) -> None:
    missing, unexpected = albert.load_state_dict(state, strict=False)
    wrong = [*missing, *unexpected]
    if wrong:
        raise ModelError(
            f"the model does not map to {type(albert).__name__}, which lacks or needs {wrong[0]}",
            OTHER_FORMATS,
        )
    albert.eval()


def _renamed(name: str, names: dict[str, str]) -> str:
    """Return `name` with its prefix replaced by the first of `names` that matches."""
    for old, new in names.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
