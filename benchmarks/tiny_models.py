"""Build a tiny random model of a family of the installed transformers from its configuration.

>>> model = build("llama")                                             # doctest: +SKIP
"""

import copy
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sharetune.spaces.errors import ModelError
from sharetune.trainers.models.sample_inputs import samples

DEPTH = 4
"""Layers of each stack."""

LARGEST = 5_000_000
"""Parameters of a family that cannot be made small, above which it is not tried."""

SIZES: dict[str, Any] = (
    dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size"), 32)
    | dict.fromkeys(("word_embed_proj_dim", "projection_dim", "d_embed", "emb_dim"), 32)
    | dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), DEPTH)
    | dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers"), DEPTH)
    | dict.fromkeys(("num_decoder_layers", "layers", "depth"), DEPTH)
    | dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4)
    | dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    | dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4)
    | dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 4)
    | dict.fromkeys(("head_dim", "d_kv", "attention_head_size", "rotary_dim"), 8)
    | dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "d_inner", "n_inner"), 64)
    | dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "ffn_hidden_size"), 64)
    | dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 32)
    | dict.fromkeys(("shared_expert_intermediate_size", "feed_forward_size"), 32)
    | dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4)
    | dict.fromkeys(("moe_num_experts",), 4)
    | dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "n_group", "topk_group"), 1)
    | dict.fromkeys(("vocab_size", "vocab_size_or_config_json_file", "n_vocab"), 99)
    | dict.fromkeys(("max_position_embeddings", "n_positions", "max_target_positions"), 64)
    | dict.fromkeys(("max_source_positions", "n_ctx", "max_seq_len", "max_seq_length"), 64)
    | dict.fromkeys(("image_size",), 32)
    | dict.fromkeys(("patch_size",), 8)
    | dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16)
    | dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8)
    | dict.fromkeys(("num_mel_bins", "feature_size"), 16)
    | dict.fromkeys(("state_size", "time_step_rank", "mamba_d_state"), 8)
    | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    | {"layerdrop": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    | dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 0)
    | {"conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 4)}
    | {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0}
    | {"num_feat_extract_layers": 2, "attention_window": 4, "window_size": 4}
)
"""Small numbers by the names that configurations give them."""

HEADS = (
    "AutoModelForSeq2SeqLM",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForImageClassification",
    "AutoModelForAudioClassification",
    "AutoModelForSpeechSeq2Seq",
    "AutoModel",
)
"""Auto classes in the order in which a family's model is looked for."""


def families() -> list[str]:
    """Return the families that the installed transformers has a model of, those with heads first.

    A head is one of `HEADS` but for the last, which is none.
    """
    known = [name for name in sorted(set(CONFIG_MAPPING) - {"sharetune"}) if places(name)]
    return sorted(known, key=lambda name: places(name) == [len(HEADS) - 1])


def places(family: str) -> list[int]:
    """Return the places in `HEADS` of the auto classes that know a family."""
    kind = CONFIG_MAPPING[family]
    mappings = [getattr(transformers, name)._model_mapping for name in HEADS]
    return [place for place, mapping in enumerate(mappings) if kind in mapping]


def build(family: str) -> PreTrainedModel:
    """Return a tiny random model of a family, in eval mode; the same one at every call.

    Raises :class:`ModelError` for a family that small numbers do not make small.
    """
    try:
        return copy.deepcopy(_built(family))
    except RuntimeError:  # weights that are made of others, such as of a normalised convolution
        _built.cache_clear()
        return _built(family)


@lru_cache(maxsize=1)
def _built(family: str) -> PreTrainedModel:
    config = small(CONFIG_MAPPING[family])
    kind = model_class(config)
    with torch.device("meta"):
        count = sum(p.numel() for p in kind._from_config(copy.deepcopy(config)).parameters())
    if count > LARGEST:
        raise ModelError(f"{count:,} parameters with small numbers", "")
    torch.manual_seed(0)
    model: PreTrainedModel = kind._from_config(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter.dtype))
    return model


def model_class(config: Any) -> Any:
    """Return the first class that an auto class has for this configuration."""
    for name in HEADS:
        mapping = getattr(transformers, name)._model_mapping
        masked = transformers.AutoModelForMaskedLM._model_mapping
        if name == "AutoModelForCausalLM" and type(config) in masked:
            continue  # encoders that can also write
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple | list) else found
    raise ModelError(f"no model for {type(config).__name__}", "")


def small(kind: Any) -> Any:
    """Return a configuration of a class with small numbers, its parts included."""
    whole = kind()
    return kind(**smaller(whole), **parts(whole))


def smaller(config: Any) -> dict[str, Any]:
    """Return the settings of one configuration that have a small number."""
    own = config.to_dict()
    found = {
        n: v
        for n, v in SIZES.items()
        if (n in own and own[n] is not None) or n in FORCED & set(own)
    }
    for name in list(found):
        value = own[name]
        if value is not None and isinstance(value, list | tuple) != isinstance(found[name], tuple):
            found.pop(name)
    return found | own_sizes(config)


def own_sizes(config: Any) -> dict[str, Any]:
    """Return the settings that a family needs to be small and whole."""
    found = dict(OWN.get(config.model_type, {}))
    for name in ("hidden_sizes", "embed_dims"):
        sizes = getattr(config, name, None)
        if isinstance(sizes, list | tuple) and name not in found:
            found[name] = [max(8, size // 8) for size in sizes]
    return found


OWN: dict[str, dict[str, Any]] = {
    **{
        name: {"embed_dim": 24, "patch_size": 2, "window_size": 2}
        for name in ("swin", "swinv2", "donut-swin", "maskformer-swin")
    },
    **{
        name: {"num_hidden_layers": 5, "first_k_dense_replace": 2, "num_experts_per_tok": 2}
        for name in ("deepseek_v2", "deepseek_v3")
    },
    **{
        name: {"num_hidden_layers": 8}
        for name in ("olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next")
    },
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
    | {"attn_layer_indices": [1, 3]},
    "esm": {"vocab_size": 99, "pad_token_id": 0, "mask_token_id": 3},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gemma3n_text": {"num_hidden_layers": 10, "num_kv_shared_layers": 5, "laurel_rank": 8}
    | {"intermediate_size": [64] * 10}
    | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 99},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
    | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"num_hidden_layers": 8, "attn_layer_period": 4, "attn_layer_offset": 3},
    "lfm2_moe": {"num_dense_layers": 2, "num_hidden_layers": 6}
    | {"layer_types": ["conv", "conv", "full_attention"] * 2},
    "llama4_text": {"num_hidden_layers": 6, "interleave_moe_layer_step": 2},
    "luke": {"entity_vocab_size": 99, "entity_emb_size": 32},
    "pvt": {"num_attention_heads": [1, 2, 2, 2]},
    "qwen3_moe": {"num_hidden_layers": 5, "mlp_only_layers": [0, 2]},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]},
    "roc_bert": {
        "pronunciation_vocab_size": 99,
        "shape_vocab_size": 99,
        "pronunciation_embed_dim": 16,
        "shape_embed_dim": 16,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
"""Settings by family, where those of `SIZES` do not do."""


FORCED = {"pad_token_id", "n_inner", "vocab_size"}
"""Settings that get a number though they are unset."""


def parts(config: Any) -> dict[str, Any]:
    """Return the settings of a configuration's parts, such as ``text_config``."""
    names = [n for n, v in vars(config).items() if isinstance(v, transformers.PreTrainedConfig)]
    return {n: _part(getattr(config, n)) for n in names}


def _part(config: Any) -> dict[str, Any]:
    return {"model_type": config.model_type} | smaller(config) | parts(config)


def answer(model: PreTrainedModel) -> Tensor:
    """Return a model's logits, or its first output, for a made-up batch."""
    inputs = samples(model)[0]
    with torch.no_grad():
        output = model(**inputs)
    logits = getattr(output, "logits", None)
    found = output[0] if logits is None else logits
    if not isinstance(found, Tensor):
        raise ModelError(f"{type(model).__name__} gives no tensor first", "")
    return found.float()
