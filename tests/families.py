"""Tiny random models of every family that sharing is tested on."""

import copy

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedModel,
    RobertaConfig,
)

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 99,
    "max_position_embeddings": 40,
}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "distilbert": DistilBertConfig(
        dim=48, n_layers=6, n_heads=4, hidden_dim=96, vocab_size=99, max_position_embeddings=40
    ),
}


def tiny(family: str) -> PreTrainedModel:
    """A model of six layers with random weights, in eval mode."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(copy.deepcopy(CONFIGS[family])).eval()


def inputs(batch: int = 2, length: int = 9) -> dict[str, torch.Tensor]:
    """Token ids, the last of the second row being padding."""
    ids = torch.randint(5, 99, (batch, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1:, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def logits(model: PreTrainedModel) -> torch.Tensor:
    """The model's answer to :func:`inputs`."""
    with torch.no_grad():
        return model(**inputs()).logits
