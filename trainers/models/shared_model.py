"""Define a shared model's class, its configuration, and the files it is saved as.

``config.json`` holds the unshared model's configuration and the plan. Its model type,
``sharetune``, is unknown to a plain Transformers installation, which therefore refuses the folder
instead of filling layers with random numbers.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from sharetune.spaces.compression import Compression
from sharetune.spaces.plan import SharingPlan, StackShape
from sharetune.trainers.models.activation_reuse import HandsOver

MODEL_TYPE = "sharetune"
"""The model type in ``config.json`` of a saved shared model."""

UNSHARED_CLASS = "_unshared_class"
"""The attribute of a shared model's class that names the class it had before."""


@dataclass(frozen=True)
class Sharing:
    """How a model was shared, as stored in ``model.sharing``.

    `plan` is bound to the model, `base` is the configuration before sharing, `orders` gives, by
    stack, the original layer that runs at each position, `shapes` the stacks before sharing, and
    `compression` was applied after training.
    """

    plan: SharingPlan
    base: dict[str, Any]
    orders: dict[str, tuple[int, ...]]
    shapes: dict[str, StackShape]
    compression: Compression = field(default_factory=Compression)


class SharedConfig(PreTrainedConfig):
    """The configuration of a saved shared model: `base` and `plan` as plain data."""

    model_type = MODEL_TYPE


class SharedModel(HandsOver):
    """The mixin that turns a transformers class into the class of its shared models."""

    sharing: Sharing
    dtype: torch.dtype

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write weights (each bank once) and configuration, as the method of transformers does.

        Tensors keep the names they have in the model. For some families transformers writes older
        names, which it can only read back into an unshared model.
        """
        kwargs["save_original_format"] = False
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        config = {
            "model_type": MODEL_TYPE,
            "architectures": [getattr(type(self), UNSHARED_CLASS).__name__],
            "base": self.sharing.base | {"dtype": str(self.dtype).removeprefix("torch.")},
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
    """Return the class of shared models whose unshared class is `unshared`."""
    return type(f"Shared{unshared.__name__}", (SharedModel, unshared), {UNSHARED_CLASS: unshared})


def unshared_class(shared: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return the unshared class; the inverse of :func:`shared_class`."""
    unshared: type[PreTrainedModel] = getattr(shared, UNSHARED_CLASS)
    return unshared


def never_saved(model: PreTrainedModel) -> set[str]:
    """Return the names of tensors that are computed, not saved, such as Marian's positions."""
    return set(model._keys_to_ignore_on_save or ())
