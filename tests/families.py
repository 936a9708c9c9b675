"""Tiny random models of every family that sharing is tested on."""

import copy
from typing import Any

import torch
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    DeiTConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPTNeoXConfig,
    HubertConfig,
    LlamaConfig,
    MarianConfig,
    ModernBertConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    RobertaConfig,
    SwinConfig,
    T5Config,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 99,
    "max_position_embeddings": 40,
}
SHALLOW = SIZES | {"num_hidden_layers": 4}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIDES = {
    "d_model": 48,
    "encoder_layers": 4,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "vocab_size": 99,
    "decoder_start_token_id": 1,
    **SPECIAL,
}
T5 = {
    "d_model": 48,
    "d_kv": 8,
    "num_heads": 4,
    "d_ff": 96,
    "num_layers": 4,
    "num_decoder_layers": 3,
    "vocab_size": 99,
    "decoder_start_token_id": 0,
}
IMAGE = {"image_size": 16, "patch_size": 4}
# SpecAugment and LayerDrop draw random numbers, outside of what checkpointing replays
AUDIO = {
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}


def without(sizes: dict[str, Any], *names: str) -> dict[str, Any]:
    """`sizes` less those that a configuration does not have."""
    return {name: size for name, size in sizes.items() if name not in names}


# the classes whose models generate text
WRITING = (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq)
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "distilbert": DistilBertConfig(
        dim=48, n_layers=6, n_heads=4, hidden_dim=96, vocab_size=99, max_position_embeddings=40
    ),
}
DEBERTA = {"relative_attention": True, "pos_att_type": "c2p|p2c"}
FAMILIES: dict[str, tuple[Any, PreTrainedConfig]] = {
    **{name: (AutoModelForSequenceClassification, config) for name, config in CONFIGS.items()},
    "deberta-v2": (
        AutoModelForSequenceClassification,
        DebertaV2Config(**SHALLOW, **DEBERTA, position_buckets=8, share_att_key=True),
    ),
    "deberta-v2-own-positions": (
        AutoModelForSequenceClassification,
        DebertaV2Config(**SHALLOW, **DEBERTA, share_att_key=False),
    ),
    "modernbert": (
        AutoModelForSequenceClassification,
        ModernBertConfig(
            **SHALLOW, **SPECIAL, cls_token_id=1, sep_token_id=2, global_attn_every_n_layers=2
        ),
    ),
    "gpt2": (
        AutoModelForCausalLM,
        GPT2Config(n_embd=48, n_layer=4, n_head=4, vocab_size=99, n_positions=40, **SPECIAL),
    ),
    "gpt-neox": (AutoModelForCausalLM, GPTNeoXConfig(**SHALLOW, **SPECIAL)),
    "opt": (
        AutoModelForCausalLM,
        OPTConfig(
            **without(SHALLOW, "intermediate_size"),
            **SPECIAL,
            ffn_dim=96,
            word_embed_proj_dim=48,
        ),
    ),
    "llama": (AutoModelForCausalLM, LlamaConfig(**SHALLOW, **SPECIAL, num_key_value_heads=2)),
    "qwen2": (AutoModelForCausalLM, Qwen2Config(**SHALLOW, **SPECIAL, num_key_value_heads=2)),
    "t5": (AutoModelForSeq2SeqLM, T5Config(**T5)),
    "t5-gated": (
        AutoModelForSeq2SeqLM,
        T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "bart": (AutoModelForSeq2SeqLM, BartConfig(**SIDES, max_position_embeddings=40)),
    "marian": (AutoModelForSeq2SeqLM, MarianConfig(**SIDES, max_position_embeddings=40)),
    "whisper": (
        AutoModelForSpeechSeq2Seq,
        WhisperConfig(
            **SIDES,
            num_mel_bins=8,
            max_source_positions=20,
            max_target_positions=40,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        ),
    ),
    "wav2vec2": (
        AutoModelForAudioClassification,
        Wav2Vec2Config(**without(SHALLOW, "max_position_embeddings"), **AUDIO),
    ),
    "hubert": (
        AutoModelForAudioClassification,
        HubertConfig(**without(SHALLOW, "max_position_embeddings"), **AUDIO),
    ),
    "vit": (
        AutoModelForImageClassification,
        ViTConfig(**without(SHALLOW, "vocab_size", "max_position_embeddings"), **IMAGE),
    ),
    "deit": (
        AutoModelForImageClassification,
        DeiTConfig(
            **without(SHALLOW, "vocab_size", "max_position_embeddings"),
            **IMAGE,
            architectures=["DeiTForImageClassification"],
        ),
    ),
    "swin": (
        AutoModelForImageClassification,
        SwinConfig(
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 1, 2],
            num_heads=[2, 4, 4],
            window_size=2,
            mlp_ratio=2.0,
        ),
    ),
}


def tiny(family: str) -> PreTrainedModel:
    """A model of two to six layers a stack with random weights, in eval mode."""
    torch.manual_seed(0)
    auto, config = FAMILIES[family]
    return auto.from_config(copy.deepcopy(config)).eval()


def inputs(batch: int = 2, length: int = 9) -> dict[str, torch.Tensor]:
    """Token ids, the last of the second row being padding."""
    ids = torch.randint(5, 99, (batch, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1:, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def inputs_of(model: PreTrainedModel, batch: int = 2) -> dict[str, torch.Tensor]:
    """Tokens, pixels, samples or a spectrogram, and what the decoder starts from."""
    name, config = model.main_input_name, model.config
    if name == "input_ids":
        given = inputs(batch)
    elif name == "pixel_values":
        given = {name: _noise(model, batch, 3, config.image_size, config.image_size)}
    elif name == "input_values":
        given = {name: _noise(model, batch, 800)}
    else:
        shape = (config.num_mel_bins, 2 * config.max_source_positions)
        given = {name: _noise(model, batch, *shape)}
    if config.is_encoder_decoder:
        given["decoder_input_ids"] = inputs(batch, 7)["input_ids"]
    return given


def _noise(model: PreTrainedModel, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(model.dtype)


def labels_of(model: PreTrainedModel, batch: int = 2) -> torch.Tensor:
    """Classes, or the tokens themselves for models that write."""
    if "Classification" in type(model).__name__:
        return torch.arange(batch) % 2
    given = inputs_of(model, batch)
    return given.get("decoder_input_ids", given.get("input_ids"))


def logits(model: PreTrainedModel) -> torch.Tensor:
    """The model's answer to :func:`inputs_of`."""
    with torch.no_grad():
        return model(**inputs_of(model)).logits
