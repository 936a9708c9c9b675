"""A tiny checkpoint and data set on disk, as a user would have them."""

import random
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = {
    "food": ["bread", "soup", "apple", "cheese", "salt"],
    "sea": ["wave", "ship", "salt", "harbour", "fish"],
    "sky": ["cloud", "star", "bird", "wind", "moon"],
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def write_checkpoint(folder: Path, *, layers: int = 4) -> Path:
    """A random BERT of `layers` layers, width 32, with a word tokenizer."""
    words = SPECIAL + sorted({word for group in WORDS.values() for word in group})
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_study_data(folder: Path, rows: int) -> Path:
    """Write ``train.csv`` of `rows` rows, ``test.csv`` of 30, and the checkpoint ``model``."""
    write_rows(folder / "train.csv", rows)
    write_rows(folder / "test.csv", 30, seed=1)
    write_checkpoint(folder / "model")
    return folder


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    """Texts of five words of one topic each, as CSV."""
    rng = random.Random(seed)
    labels = sorted(WORDS)
    rows = [
        {"text": " ".join(rng.choices(WORDS[labels[i % 3]], k=5)), "label": labels[i % 3]}
        for i in range(count)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path
