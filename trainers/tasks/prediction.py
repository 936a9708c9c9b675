"""Run a model over a split: its logits, and its mean loss."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

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


def mean_loss(
    model: PreTrainedModel, *, data: object, collate: object, batch_size: int = 32
) -> float:
    """Return the model's own loss over `data` in nats, the mean over labels other than -100.

    The model is left in eval mode. A causal model's first label does not count, since nothing is
    predicted before it.
    """
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size, collate_fn=collate)
    device = next(model.parameters()).device
    model.eval()
    total = count = 0.0
    with torch.no_grad():
        for batch in (part for whole in loader for part in in_parts(whole, model)):
            labels = batch["labels"] if model.config.is_encoder_decoder else batch["labels"][:, 1:]
            counted = int((labels != -100).sum())
            if counted == 0:
                continue
            loss = model(**{key: value.to(device) for key, value in batch.items()}).loss
            total, count = total + float(loss) * counted, count + counted
    return total / count


def in_parts(batch: dict[str, Tensor], model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """Yield the batch in parts of as many rows as `LOGITS` allows."""
    words = getattr(model.config.get_text_config(), "vocab_size", 1)
    rows = max(1, LOGITS // (words * max(1, batch["labels"][0].numel())))
    for start in range(0, len(batch["labels"]), rows):
        yield {name: values[start : start + rows] for name, values in batch.items()}
