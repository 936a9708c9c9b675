"""Run a model over a split: its logits, and its loss."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from sharetune.trainers.data.blocks import UNCOUNTED
from sharetune.trainers.models.mixtures import without_balancing

SAME_LOSS = 1e-2
"""Relative difference of two losses that rounding makes, of 16 bits at the most."""

LOGITS = 2**26
"""Most logits over a vocabulary that are computed at once: 256 MiB in float32, and a loss takes
several times that."""


def predict(
    model: PreTrainedModel, *, data: object, collate: object, batch_size: int = 32
) -> Tensor:
    """Return the logits of `model` over `data`, in order: (examples, ...).

    The model is left in eval mode.
    """
    rows = predict_rows(model, data=data, collate=collate, batch_size=batch_size)
    return torch.stack(rows)


def predict_rows(
    model: PreTrainedModel, *, data: object, collate: object, batch_size: int = 32
) -> list[Tensor]:
    """Return the logits of `model` for each row of `data`, each padded as its batch was.

    The random generators are left as they were: a loader without one of its own draws a seed.
    """
    loader = torch.utils.data.DataLoader(
        data, batch_size=batch_size, collate_fn=collate, generator=torch.Generator()
    )
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        batches = [{key: value.to(device) for key, value in batch.items()} for batch in loader]
        return [row for batch in batches for row in model(**batch).logits.float().cpu()]


@dataclass(frozen=True)
class Losses:
    """A model's own loss over a split, in nats: the mean over labels that count, and by row.

    `nats` are the sums of each row's, `counts` how many of its labels count. `nats` is None where
    the model's own loss is not the cross-entropy of its logits, so that nothing is known by row.
    """

    mean: float
    nats: list[float] | None
    counts: list[int]


def losses(
    model: PreTrainedModel, *, data: object, collate: object, batch_size: int = 32
) -> Losses:
    """Return the model's own loss over `data` in nats, over labels other than -100, without what
    balances experts.

    The model is left in eval mode. A causal model's first label does not count, since nothing is
    predicted before it.
    """
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size, collate_fn=collate)
    device = next(model.parameters()).device
    model.eval()
    total, nats, counts, by_row = 0.0, [], [], True
    with torch.no_grad():
        for batch in (part for whole in loader for part in in_parts(whole, model)):
            labels = batch["labels"] if model.config.is_encoder_decoder else batch["labels"][:, 1:]
            counted = (labels != UNCOUNTED).sum(-1).tolist()
            counts += counted
            if sum(counted) == 0:
                nats += [0.0] * len(counted)
                continue
            inputs = {key: value.to(device) for key, value in batch.items()}
            output = model(**inputs, **without_balancing(model))
            rows = _row_nats(output.logits, labels.to(device))
            own = float(output.loss) * sum(counted)
            by_row = by_row and abs(sum(rows) - own) <= SAME_LOSS * abs(own)
            total, nats = total + own, nats + rows
    return Losses(total / sum(counts), nats if by_row else None, counts)


def _row_nats(logits: Tensor, labels: Tensor) -> list[float]:
    """Return the sum of each row's cross-entropy, a row at a time, which needs least memory."""
    return [
        float(cross_entropy(row[: len(wanted)].float(), wanted, reduction="sum"))
        for row, wanted in zip(logits, labels, strict=True)
    ]


def in_parts(batch: dict[str, Tensor], model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """Yield the batch in parts of as many rows as `LOGITS` allows."""
    words = getattr(model.config.get_text_config(), "vocab_size", 1)
    rows = max(1, LOGITS // (words * max(1, batch["labels"][0].numel())))
    for start in range(0, len(batch["labels"]), rows):
        yield {name: values[start : start + rows] for name, values in batch.items()}
