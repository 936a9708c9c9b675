"""Load checkpoints from the hub or a folder, with errors that say what to do."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedModel

from sharetune.spaces.errors import ModelError
from sharetune.trainers.models.dtypes import cast_, saved_dtype
from sharetune.trainers.models.shared_model import SharedConfig, base_config, base_of


def from_library(auto: Any, model: str, **kwargs: Any) -> Any:
    """Return ``auto.from_pretrained(model)``, without running code that comes with the model.

    A shared model could not be loaded again without such code. Raises :class:`ModelError` if there
    is no such model, or if it cannot be loaded without such code.
    """
    try:
        return auto.from_pretrained(model, trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as error:
        raise _no_model(model, error) from error


def skeleton(auto: Any, model: str, **kwargs: Any) -> PreTrainedModel:
    """Return the model's architecture on the meta device, in eval mode, with eager attention.

    Eager, because the FLOP counter sees its products. Tensors have the checkpoint's dtypes.
    """
    config = from_library(AutoConfig, model, **kwargs)
    with torch.device("meta"):
        shell: PreTrainedModel = auto.from_config(config, attn_implementation="eager")
    return cast_(shell, saved_dtype(shell)).eval()


class ByArchitecture:
    """An auto class for any checkpoint: the model class that its configuration names.

    Where the library has no such class it is the model's body.
    """

    def from_pretrained(self, model: str, **kwargs: object) -> PreTrainedModel:
        """Load a checkpoint."""
        named = _architecture(AutoConfig.from_pretrained(model)) or AutoModel
        return named.from_pretrained(model, **kwargs)

    def from_config(self, config: object, **kwargs: object) -> PreTrainedModel:
        """Build a model with random weights."""
        named = _architecture(config)
        if named is None:
            return AutoModel.from_config(config, **kwargs)
        return named._from_config(config, **kwargs)


def _architecture(config: Any) -> Any:
    names = config.architectures or []
    return next((getattr(transformers, n) for n in names if hasattr(transformers, n)), None)


def body_skeleton(model: str) -> PreTrainedModel:
    """Return the body of any saved model, shared ones included, on the meta device."""
    config = from_library(AutoConfig, model)
    if isinstance(config, SharedConfig):
        config = base_config(base_of(vars(config)))
    with torch.device("meta"):
        shell: PreTrainedModel = AutoModel.from_config(config)
    return shell.eval()


def _no_model(model: str, error: Exception) -> ModelError:
    looks_local = model.startswith(("/", "./", "../", "~")) or Path(model).exists()
    if looks_local and not (Path(model) / "config.json").exists():
        return ModelError(f"no model in folder {model}", "the folder must hold a config.json")
    first = str(error).strip().splitlines()[0]
    if "trust_remote_code" in str(error):
        return ModelError(
            f"{model!r} needs code of its own to be run, which is never done",
            "use a model of an architecture that the library has",
        )
    return ModelError(
        f"cannot load model {model!r}: {first}",
        "name a folder with a saved model, or a model of the hub (needs network or its cache)",
    )
