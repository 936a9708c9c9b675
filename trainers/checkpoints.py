"""Shared models on disk: each bank once, under a model type of our own.

``config.json`` holds the unshared model's configuration and the plan. Its model type,
``sharetune``, is unknown to a plain Transformers installation, which therefore refuses the
folder instead of filling layers with random numbers. After ``import trainers`` every
``AutoModelFor...from_pretrained(folder)`` returns the shared model.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

from spaces.compression import Compression
from spaces.errors import ModelError
from spaces.plan import SharingPlan
from trainers.handover import Remembering, handovers

MODEL_TYPE = "sharetune"
UNSHARED = "_unshared_class"


@dataclass(frozen=True)
class Sharing:
    """The bound plan of a shared model, the configuration it had before, by stack the layer of
    that model that runs at each position now, and what was done to its weights after training."""

    plan: SharingPlan
    base: dict[str, Any]
    orders: dict[str, tuple[int, ...]]
    compression: Compression = field(default_factory=Compression)


class SharedConfig(PreTrainedConfig):
    """Configuration of a saved shared model: `base` and `plan` as plain data."""

    model_type = MODEL_TYPE


class SharedModel:
    """What a shared model's class has beside the class it had before."""

    sharing: Sharing

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, **kwargs: Any
    ) -> None:
        held = handovers(self)  # type: ignore[arg-type]
        if enable and held:
            gradient_checkpointing_func = Remembering(gradient_checkpointing_func, held)
        super()._set_gradient_checkpointing(  # type: ignore[misc]
            enable, gradient_checkpointing_func, **kwargs
        )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes weights (each bank once) and configuration; see the library's method.

        Tensors keep the names they have in the model. Older names, under which the library writes
        some families, it can only read back into an unshared model.
        """
        kwargs["save_original_format"] = False
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        config = {
            "model_type": MODEL_TYPE,
            "architectures": [getattr(type(self), UNSHARED).__name__],
            "base": self.sharing.base,
            "plan": self.sharing.plan.written(),
            "compression": self.sharing.compression.model_dump(exclude_defaults=True),
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


def never_saved(model: PreTrainedModel) -> set[str]:
    """Names of tensors that the model computes when it is built, such as Marian's positions."""
    return set(model._keys_to_ignore_on_save or ())


def load_shared(folder: str | Path) -> PreTrainedModel:
    """The shared model saved in `folder`, in the dtypes it was saved in, in eval mode.

    Raises :class:`ModelError` if the folder holds no shared model, or not exactly its tensors.
    """
    from trainers.compression import reshape_
    from trainers.sharing import share_

    folder = Path(folder)
    config = _read_config(folder)
    architecture = getattr(transformers, config["architectures"][0])
    base = dict(config["base"])
    model = architecture(AutoConfig.for_model(base.pop("model_type"), **base))
    _forget_weights(model)
    share_(model, SharingPlan.model_validate(config["plan"]))
    compression = Compression.model_validate(config.get("compression", {}))
    if compression != Compression():
        reshape_(model, compression)
    _load_exactly(model, _tensors(folder), folder)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def _forget_weights(model: nn.Module) -> None:
    """Moves what a file will fill to the meta device, where to share costs nothing."""
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if f"{path}.{name}" not in never_saved(model):
                empty = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
                module.register_parameter(name, empty)


def _load_exactly(model: PreTrainedModel, tensors: dict[str, Tensor], folder: Path) -> None:
    """Fills `model` with `tensors`, in their dtypes. Raises :class:`ModelError` if any lacks, is
    too many or has another shape; only a tensor tied to one that is there may lack."""
    wanted = {n: t for n, t in model.state_dict().items() if n not in never_saved(model)}
    tied = model.all_tied_weights_keys
    wrong = [n for n in tensors if n in wanted and wanted[n].shape != tensors[n].shape]
    missing = [n for n in wanted if n not in tensors and tied.get(n) not in tensors]
    unexpected = [n for n in tensors if n not in wanted]
    if wrong or missing or unexpected:
        raise ModelError(
            f"{folder} does not hold the tensors of its plan: {len(missing)} missing, "
            f"{len(unexpected)} unexpected, {len(wrong)} of another shape, "
            f"such as {(missing + unexpected + wrong)[0]}",
            "the folder is damaged or was edited; export the model again",
        )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()


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


def _tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return dict(load_file(folder / "model.safetensors"))
    shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    return {name: tensor for shard in shards for name, tensor in load_file(folder / shard).items()}


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
