"""Shared models on disk: each bank once, under a model type of our own.

``config.json`` holds the unshared model's configuration and the plan. Its model type,
``sharetune``, is unknown to a plain Transformers installation, which therefore refuses the
folder instead of filling layers with random numbers. After ``import trainers`` every
``AutoModelFor...from_pretrained(folder)`` returns the shared model.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from spaces.errors import ModelError
from spaces.plan import SharingPlan

MODEL_TYPE = "sharetune"
UNSHARED = "_unshared_class"


@dataclass(frozen=True)
class Sharing:
    """The bound plan of a shared model and the configuration it had before."""

    plan: SharingPlan
    base: dict[str, Any]


class SharedConfig(PreTrainedConfig):
    """Configuration of a saved shared model: `base` and `plan` as plain data."""

    model_type = MODEL_TYPE


class SharedModel:
    """What a shared model's class has beside the class it had before."""

    sharing: Sharing

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes weights (each bank once) and configuration; see the library's method."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        config = {
            "model_type": MODEL_TYPE,
            "architectures": [getattr(type(self), UNSHARED).__name__],
            "base": self.sharing.base,
            "plan": self.sharing.plan.written(),
            "transformers_version": transformers.__version__,
        }
        path = Path(save_directory) / "config.json"
        path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


@cache
def shared_class(unshared: Any) -> type[PreTrainedModel]:
    """The class of shared models whose unshared class is `unshared`."""
    return type(f"Shared{unshared.__name__}", (SharedModel, unshared), {UNSHARED: unshared})


def unshared_class(shared: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The inverse of :func:`shared_class`."""
    unshared: type[PreTrainedModel] = getattr(shared, UNSHARED)
    return unshared


def load_shared(folder: str | Path) -> PreTrainedModel:
    """The shared model saved in `folder`, in eval mode.

    Raises :class:`ModelError` if the folder holds no shared model or tensors are missing.
    """
    from trainers.sharing import share_

    folder = Path(folder)
    config = _read_config(folder)
    architecture = getattr(transformers, config["architectures"][0])
    base = dict(config["base"])
    model = architecture(AutoConfig.for_model(base.pop("model_type"), **base))
    share_(model, SharingPlan.model_validate(config["plan"]))
    missing, unexpected = model.load_state_dict(_tensors(folder), strict=False)
    missing = [name for name in missing if name not in _tied_names(model)]
    if missing or unexpected:
        raise ModelError(
            f"{folder} does not hold the tensors of its plan: "
            f"{len(missing)} missing, {len(unexpected)} unexpected, "
            f"such as {(missing + unexpected)[0]}",
            "the folder is damaged or was edited; export the model again",
        )
    model.tie_weights()
    return model.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"no model in {folder}", "name a folder with a config.json") from None
    if config.get("model_type") != MODEL_TYPE:
        raise ModelError(
            f"{folder} holds an ordinary {config.get('model_type')} model, not a shared one",
            "load it with AutoModel...from_pretrained",
        )
    return dict(config)


def _tensors(folder: Path) -> dict[str, Any]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return dict(load_file(folder / "model.safetensors"))
    shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    return {name: tensor for shard in shards for name, tensor in load_file(folder / shard).items()}


def _tied_names(model: PreTrainedModel) -> set[str]:
    return set(getattr(model, "all_tied_weights_keys", None) or ())


class SharedLoader:
    """Stands behind every auto class for the model type ``sharetune``."""

    config_class = SharedConfig

    @classmethod
    def from_pretrained(cls, folder: str | Path, *_: Any, **__: Any) -> PreTrainedModel:
        """See :func:`load_shared`."""
        return load_shared(folder)


def register_auto_classes() -> None:
    """Makes the library's auto classes know the model type ``sharetune``."""
    AutoConfig.register(MODEL_TYPE, SharedConfig, exist_ok=True)
    for name in dir(transformers):
        if name == "AutoModel" or name.startswith("AutoModelFor"):
            getattr(transformers, name).register(SharedConfig, SharedLoader, exist_ok=True)
