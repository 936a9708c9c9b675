"""Load checkpoints from the hub or a folder, with errors that say what to do."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedModel

from sharetune.spaces.errors import ModelError, SharetuneError
from sharetune.spaces.paths import require_model
from sharetune.trainers.models.dtypes import cast_, saved_dtype
from sharetune.trainers.models.shared_model import SharedConfig, base_config, base_of
from sharetune.trainers.models.structure import find_stacks


def from_library(auto: Any, model: str, **kwargs: Any) -> Any:
    """Return ``auto.from_pretrained(model)``, without running code that comes with the model.

    A shared model could not be loaded again without such code. Raises :class:`ModelError` if there
    is no such model, or if it cannot be loaded without such code.
    """
    require_model(str(model))
    try:
        return auto.from_pretrained(model, trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as error:
        raise _no_model(model, error) from error


def pretrained(auto: Any, model: str, **kwargs: Any) -> PreTrainedModel:
    """Return ``auto.from_pretrained(model)``, whose head is drawn anew where its labels differ.

    Raises :class:`ModelError` if a weight of the body has another shape, or the checkpoint has no
    weights for a layer: the library would draw both at random.
    """
    if isinstance(from_library(AutoConfig, model), SharedConfig):
        shared: PreTrainedModel = from_library(auto, model, **kwargs)
        return shared
    lenient = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    loaded, found = from_library(auto, model, **lenient, **kwargs)
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        if not _is_of_labels(name, loaded, tuple(wanted), kwargs):
            raise ModelError(
                f"the checkpoint {model} has {name} of the shape {tuple(stored)}, and its "
                f"configuration says {tuple(wanted)}",
                "save the model anew, with the configuration that belongs to it",
            )
    layers = tuple(f"{stack.path}." for stack in find_stacks(loaded).values())
    missing = sorted(name for name in found["missing_keys"] if name.startswith(layers))
    if missing:
        raise ModelError(
            f"the checkpoint {model} has no weights for {len(missing)} tensors of the layers of "
            f"{type(loaded).__name__}, such as {missing[0]}",
            "name a checkpoint of this architecture, saved whole",
        )
    return loaded


def _is_of_labels(
    name: str, model: PreTrainedModel, shape: tuple[int, ...], settings: dict[str, Any]
) -> bool:
    """Return whether the tensor `name` is a head's, with one row a label."""
    of_body = name.startswith(f"{model.base_model_prefix}.")
    return "num_labels" in settings and not of_body and shape[:1] == (model.config.num_labels,)


COUNTED = {"attn_implementation": "eager", "experts_implementation": "batched_mm"}
"""Implementations whose products the FLOP counter sees."""


def skeleton(auto: Any, model: str, **kwargs: Any) -> PreTrainedModel:
    """Return the model's architecture on the meta device, in eval mode, with eager attention.

    Eager, because the FLOP counter sees its products; experts are multiplied in batches, because
    their grouped product cannot be run without values. Tensors have the checkpoint's dtypes.
    Raises :class:`ModelError` for a configuration of which no model can be built.
    """
    config = from_library(AutoConfig, model, **kwargs)
    with torch.device("meta"):
        shell: PreTrainedModel = built(auto, config, **COUNTED)
    # some families make a tensor elsewhere
    return cast_(shell.to("meta"), saved_dtype(shell)).eval()


def built(auto: Any, config: Any, **kwargs: Any) -> PreTrainedModel:
    """Return ``auto.from_config(config)``.

    Raises :class:`ModelError` for a configuration of which no model can be built.
    """
    try:
        return auto.from_config(config, **kwargs)
    except SharetuneError:
        raise
    except Exception as error:  # whatever a model's own code raises
        text = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"no {config.model_type} model can be built from its configuration: "
            f"{type(error).__name__}: {text}",
            "correct its config.json, such as ids of special tokens beyond vocab_size",
        ) from error


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
    folder = Path(model)
    if folder.exists() and not (folder / "config.json").exists():
        return ModelError(f"no model in folder {model}", "the folder must hold a config.json")
    first = str(error).strip().splitlines()[0]
    if "trust_remote_code" in str(error):
        return ModelError(
            f"{model!r} needs code of its own to be run, which is never done",
            "use a model of an architecture that the library has",
        )
    if folder.exists():
        return ModelError(f"cannot load model {model!r}: {first}", "save it anew")
    return ModelError(
        f"cannot load model {model!r}: there is no such folder, and from the hub: {first}",
        "name a folder with a saved model, or a model of the hub (needs network or its cache)",
    )
