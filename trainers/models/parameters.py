"""Name the parameters of a model's banks and of its head."""

from torch import nn
from transformers import PreTrainedModel

from sharetune.trainers.models.structure import BANKS


def bank_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the banks, each once; none for an unshared model."""
    return list(model.banks.parameters()) if hasattr(model, "banks") else []


def head_parameters(model: PreTrainedModel) -> set[str]:
    """Return the names of the parameters outside the pretrained body and the banks."""
    body = f"{model.base_model_prefix}."
    names = {name for name, _ in model.named_parameters()}
    if not any(name.startswith(body) for name in names):
        return set()
    return {name for name in names if not name.startswith((body, f"{BANKS}."))}
