"""What the tables' candidates are trained on: a small model pretrained here, and its data.

Each is of six layers of width 32 with four heads and 64 neurons, so that one space fits all.
`digits` is what the sampler's settings were chosen on; `news` was made afterwards and shown to none
of it.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

NEWS = Path(__file__).parent.parent.parent / "examples" / "bbc-news" / "data"
WORDS, LENGTH = 2000, 32
PAD, UNKNOWN = 0, 1

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Material:
    """Rows for pretraining, training and testing, and the `model` to pretrain on the first, for
    `steps` steps at this learning rate."""

    model: Callable[[], PreTrainedModel]
    pretraining: Rows
    training: Rows
    testing: Rows
    steps: int = 1200
    learning_rate: float = 2e-3


def digits() -> Material:
    """scikit-learn's handwritten digits: 539, 539 and 719 images of 8 x 8, in 17 tokens."""
    data = load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    rows = [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(pixels, data.target, strict=True)
    ]
    rest, test = train_test_split(rows, test_size=0.4, random_state=0, stratify=data.target)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
    )
    return Material(lambda: ViTForImageClassification(config), rest[::2], rest[1::2], test)


def news() -> Material:
    """BBC News: 891, 890 and 444 articles in five classes, by their first 32 words, of which the
    2,000 most frequent are known. Needs ``examples/bbc-news/prepare.py``."""
    train, test = (pd.read_csv(NEWS / f"{split}.csv") for split in ("train", "test"))
    counts = Counter(word for text in train["text"] for word in words(text))
    known = {word: i for i, (word, _) in enumerate(counts.most_common(WORDS - 2), start=2)}
    labels = {label: i for i, label in enumerate(sorted(set(train["label"])))}

    def rows(frame: pd.DataFrame) -> Rows:
        return [
            {"input_ids": identified(text, known), "labels": labels[label]}
            for text, label in zip(frame["text"], frame["label"], strict=True)
        ]

    rest = rows(train)
    random.Random(0).shuffle(rest)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        num_labels=len(labels),
        pad_token_id=PAD,
    )
    return Material(
        lambda: BertForSequenceClassification(config), rest[::2], rest[1::2], rows(test)
    )


def words(text: str) -> list[str]:
    """Lower-case words without punctuation at their ends."""
    return [word.strip(".,:;!?\"'()").lower() for word in text.split()]


def identified(text: str, known: dict[str, int]) -> Tensor:
    """The first words' numbers, ``(LENGTH,)``."""
    found = [known.get(word, UNKNOWN) for word in words(text)[:LENGTH]]
    return torch.tensor(found + [PAD] * (LENGTH - len(found)))


def collate(rows: Rows) -> dict[str, Tensor]:
    """A batch: labels ``(n,)`` and what the model is given, stacked."""
    given = {name: torch.stack([row[name] for row in rows]) for name in rows[0].keys() - {"labels"}}
    return {**given, "labels": torch.tensor([row["labels"] for row in rows])}


MATERIALS: dict[str, Callable[[], Material]] = {"digits": digits, "news": news}
