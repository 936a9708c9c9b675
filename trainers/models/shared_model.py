"""What a shared model is: its class, its configuration, and what it writes to disk.

``config.json`` holds the unshared model's configuration and the plan. Its model type,
``sharetune``, is unknown to a plain Transformers installation, which therefore refuses the
folder instead of filling layers with random numbers.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from sharetune.spaces.compression import Compression
from sharetune.spaces.plan import SharingPlan, StackShape
from sharetune.trainers.models.activation_reuse import Remembering, handovers

MODEL_TYPE = "sharetune"
"""The model type in ``config.json`` of a saved shared model."""

UNSHARED = "_unshared_class"
"""The attribute of a shared model's class that names the class it had before."""


@dataclass(frozen=True)
class Sharing:
    """The bound plan of a shared model, the configuration it had before, by stack the layer of
    that model that runs at each position now and the shape it had before, and what was done to its
    weights after training."""

    plan: SharingPlan
    base: dict[str, Any]
    orders: dict[str, tuple[int, ...]]
    shapes: dict[str, StackShape]
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
            "units": {
                name: {"heads": shape.heads, "neurons": shape.neurons}
                for name, shape in self.sharing.shapes.items()
            },
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
